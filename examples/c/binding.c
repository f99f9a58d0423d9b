/* The process binding of the C guest: POSIX shared memory, semaphores, one abstract socket. */
#define _GNU_SOURCE
#include "binding.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "pvpmu_guest.h"

#define HOST_HAS_GONE() (host_gone = 1, errx(1, "the host has gone"))
#define PAUSE_US 5000

uint64_t exits_by[256], handler_exits;
static char mine[64], theirs[72], semaphores[2][64]; /* with slash; the host's as Welcome has them */
static int control = -1, owned, host_gone, in_handler;
static uint64_t due; /* of the replies: NMI and NMI window that have not come yet */
static sem_t *exit_sem, *entry_sem;
static volatile sig_atomic_t interrupted;
struct pvpmu_live live;

static void on_signal(int number)
{
    interrupted = number;
}

/* A socket bound or connected to an abstract name, -1 if that cannot be done in time. */
static int abstract(int type, const char *name, int (*call)(int, const struct sockaddr *, socklen_t), double wait_s)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int length = snprintf(to.sun_path + 1, sizeof to.sun_path - 1, "%s", name);
    int made = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    while (call(made, (void *)&to, (socklen_t)offsetof(struct sockaddr_un, sun_path) + 1 + (socklen_t)length)) {
        if (interrupted || (wait_s -= PAUSE_US / 1e6) < 0)
            return -1;
        usleep(PAUSE_US);
    }
    return made;
}

static int lock_names(void) /* BND-3; the lock goes with its socket, or with the process */
{
    char name[32];

    snprintf(name, sizeof name, "pvpmu-names-%u", (unsigned)getuid());
    return abstract(SOCK_DGRAM, name, bind, 10);
}

static uint64_t start_of(uint64_t pid) /* BND-4: field 22 of its stat, 0 if it does not live */
{
    char path[40], text[1024] = "", state = 'X', *rest;
    unsigned long long start = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%llu/stat", (unsigned long long)pid);
    if (!(file = fopen(path, "r")))
        return 0;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    if ((rest = strrchr(text, ')')))
        sscanf(rest + 1, " %c%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s%*s %llu", &state, &start);
    return state == 'Z' || state == 'X' ? 0 : start;
}

/* A segment of at least `bytes`, made if `flags` say so; NULL if there is none (BND-5). */
static volatile struct pvpmu_segment *map(const char *name, int flags, off_t bytes)
{
    int file = shm_open(name, O_RDWR | O_CLOEXEC | flags, 0600);
    volatile struct pvpmu_segment *header = MAP_FAILED;

    if (file >= 0 && (flags ? !posix_fallocate(file, 0, bytes) : lseek(file, 0, SEEK_END) >= bytes))
        header = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return header != MAP_FAILED && (flags || (header->ready == PVPMU_SEGMENT_MAGIC &&
           header->version == PVPMU_SEGMENT_VERSION)) ? header : NULL;
}

static int owner_lives(const char *name)
{
    volatile struct pvpmu_segment *header = map(name, 0, PVPMU_SEGMENT_HEADER_SIZE);

    return header && header->start && start_of(header->pid) == header->start;
}

static void leave(void) /* BND-11: however it ends, no name stays */
{
    int tries;

    interrupted = 0; /* what is left to do is done */
    /* The socket of a killed host closes a moment before its process has ended. */
    for (tries = 0; host_gone && *theirs && owner_lives(theirs) && tries < 200; tries++)
        usleep(PAUSE_US);
    lock_names();
    if (owned)
        shm_unlink(mine);
    if (host_gone && *theirs && !owner_lives(theirs)) {
        sem_unlink(semaphores[0]);
        sem_unlink(semaphores[1]);
        shm_unlink(theirs);
        shm_unlink(strcat(theirs, "-live"));
    }
}

static volatile struct pvpmu_segment *make_memory(void) /* BND-3 */
{
    volatile struct pvpmu_segment *header = NULL;
    int lock = lock_names();

    if (lock >= 0 && (owned = !owner_lives(mine))) {
        shm_unlink(mine);
        header = map(mine, O_CREAT | O_EXCL, PVPMU_SEGMENT_HEADER_SIZE + PVPMU_PAGE_SIZE);
    }
    if (header) {
        header->version = PVPMU_SEGMENT_VERSION;
        header->pid = (uint64_t)getpid();
        header->start = start_of(header->pid);
        __atomic_store_n(&header->ready, PVPMU_SEGMENT_MAGIC, __ATOMIC_RELEASE);
    }
    close(lock);
    if (!header)
        errx(1, "%s: %s", mine, owned ? "cannot be made" : "belongs to a live guest, or is locked");
    return header;
}

/* The host's answer, and what of it is to be read. In msgpack i is a number, s a string, a and m an
 * array and a map of n elements or pairs; anything else is of no use here. */
static unsigned char packet[262144], *at, *end;
struct element { char kind; uint64_t n; const char *text; };

static struct element next(void)
{
    static const char kinds[] = "iiiiiiii     sssaamm", widths[] = "12481248000001242424"; /* from 0xcc on */
    unsigned char head = at < end ? *at++ : 0xc0;
    struct element e = {"iiiiiiiimass  ii"[head >> 4], head & (head < 0x80 ? 0x7f : head < 0xa0 ? 0xf : 0x1f), NULL};
    int width;

    if (head >= 0xcc && head < 0xe0) {
        e.kind = kinds[head - 0xcc];
        for (e.n = 0, width = widths[head - 0xcc] - '0'; width && at < end; width--)
            e.n = e.n << 8 | *at++;
    }
    if (e.kind == 's' && e.n > (uint64_t)(end - at))
        e.n = (uint64_t)(end - at);
    e.text = (const char *)at;
    at += e.kind == 's' ? e.n : 0;
    return e;
}

/* The value of a top-level key; what is in it, if it has elements, comes next. */
static struct element field(const char *key, char kind)
{
    struct element e;
    uint64_t more;

    for (at = packet, next(); at < end;) {
        e = next();
        if (e.kind == 's' && e.n == strlen(key) && !memcmp(e.text, key, e.n) && (e = next()).kind == kind)
            return e;
        for (more = 1; more && at < end; more--) { /* pass over the value and all that is in it */
            e = next();
            more += e.kind == 'm' ? 2 * e.n : e.kind == 'a' ? e.n : 0;
        }
    }
    errx(1, "the host's answer has no %s", key);
}

static void greet(void) /* Hello, and Welcome or Refuse (BND-7 to BND-10) */
{
    int k, pid = (int)getpid();
    ssize_t length = snprintf((char *)packet, sizeof packet,
        "\x86\xa4type\xa5Hello\xa7version\x01\xa5vcpus\x01\xacmemory_bytes\xcd\x10%c\xa3pid\xce%c%c%c%c"
        "\xa6memory\xd9%c%s", 0, pid >> 24, pid >> 16, pid >> 8, pid, (int)strlen(mine + 1), mine + 1);
    struct element e;

    if (send(control, packet, (size_t)length, MSG_NOSIGNAL) < 0 ||
        (length = recv(control, packet, sizeof packet, 0)) <= 0)
        HOST_HAS_GONE();
    end = packet + length;
    e = field("type", 's');
    if (e.n == 6 && !memcmp(e.text, "Refuse", 6)) {
        e = field("reason", 's');
        errx(1, "refused, code %d: %.*s", (int)field("code", 'i').n, (int)e.n, e.text);
    }
    e = field("segment", 's');
    snprintf(theirs, 64, "/%.*s", (int)e.n, e.text);
    if (field("version", 'i').n != PVPMU_CONTROL_VERSION || field("slot_bytes", 'i').n < PVPMU_SLOT_SIZE ||
        field("segment_bytes", 'i').n < field("slot_bytes", 'i').n || field("cpus", 'a').n != 1 ||
        field("semaphores", 'a').n != 1)
        errx(1, "Welcome of version %d is not for a guest of one vCPU", (int)field("version", 'i').n);
    for (k = 0, next(); k < 2; k++) { /* the pair of vCPU 0 */
        e = next();
        snprintf(semaphores[k], sizeof semaphores[k], "%.*s", (int)e.n, e.text);
    }
}

volatile void *attach(const char *name, double wait_s)
{
    volatile struct pvpmu_segment *memory, *slots;
    char address[64], plain[49], more;

    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    if (sscanf(name, "%48[A-Za-z0-9_-]%c", plain, &more) != 1) /* BND-1 */
        errx(1, "%s is no VM name", name);
    snprintf(mine, sizeof mine, "/pvpmu.%s.guest", name);
    snprintf(address, sizeof address, "pvpmu/%s", name);
    atexit(leave);
    memory = make_memory();
    if ((control = abstract(SOCK_SEQPACKET, address, connect, wait_s)) < 0)
        errx(1, "no host of the name %s", name);
    greet();
    slots = map(theirs, 0, PVPMU_SEGMENT_HEADER_SIZE + PVPMU_SLOT_SIZE);
    exit_sem = sem_open(semaphores[0], 0);
    entry_sem = sem_open(semaphores[1], 0);
    if (!slots || exit_sem == SEM_FAILED || entry_sem == SEM_FAILED)
        errx(1, "%s or its semaphores are not as Welcome says", theirs);
    live.slot = (volatile void *)(slots + 1);
    return memory + 1;
}

void detach(void)
{
    if (send(control, "\x81\xa4type\xa3" "Bye", 10, MSG_NOSIGNAL) < 0)
        HOST_HAS_GONE();
}

int pvpmu_exit(struct pvpmu_guest *g, uint64_t reason, uint64_t address, uint64_t value, uint64_t result[2])
{
    uint64_t reply, none[2];
    struct timespec until;

    if (interrupted)
        errx(1, "interrupted by signal %d", (int)interrupted);
    live.slot->address = address;
    live.slot->value = value;
    live.slot->request = reason | live.flags | (in_handler ? PVPMU_REQUEST_NMI_BLOCKED : 0);
    exits_by[reason]++;
    handler_exits += (uint64_t)in_handler;
    for (sem_post(exit_sem);;) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += (until.tv_nsec += 50000000) / 1000000000;
        until.tv_nsec %= 1000000000;
        if (!sem_timedwait(entry_sem, &until))
            break;
        if (recv(control, NULL, 0, MSG_DONTWAIT) >= 0 || errno != EAGAIN) /* it speaks only when asked */
            HOST_HAS_GONE();
    }
    reply = live.slot->reply;
    result[0] = live.slot->result;
    result[1] = live.slot->result_high;
    pvpmu_live_entered(&live);
    due |= reply & (PVPMU_REPLY_INJECT_NMI | PVPMU_REPLY_WANT_NMI_WINDOW);
    if (due & PVPMU_REPLY_INJECT_NMI && !in_handler) { /* BND-14, BND-15 */
        due &= ~PVPMU_REPLY_INJECT_NMI;
        in_handler = 1;
        pvpmu_look(g);
        on_nmi();
        in_handler = 0;
    }
    if (due && !in_handler) {
        due = 0;
        pvpmu_exit(g, PVPMU_EXIT_NMI_WINDOW, 0, 0, none);
    }
    return (reply & PVPMU_REPLY_FAULT_GP) != 0;
}
