/* The process binding of the C guest: POSIX shared memory, semaphores, one abstract socket. */
#define _GNU_SOURCE
#include "binding.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "pvpmu_guest.h"

#define HOST_HAS_GONE() (host_gone = 1, die("the host has gone"))

uint64_t exits_by[256], handler_exits;
static char mine[64], theirs[64], semaphores[2][64]; /* with slash; theirs as Welcome has them */
static int control = -1, owned, host_gone, in_handler, want_window;
static sem_t *exit_sem, *entry_sem;
static void (*handler)(struct pvpmu_guest *);
static volatile sig_atomic_t interrupted;
struct pvpmu_live live;

static const struct timespec moment = {.tv_nsec = 5000000};

static void on_signal(int number)
{
    interrupted = number;
}

/* A socket bound or connected to an abstract name, -1 with errno. */
static int abstract(int type, const char *name, int (*call)(int, const struct sockaddr *, socklen_t))
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int length = snprintf(to.sun_path + 1, sizeof to.sun_path - 1, "%s", name);
    int made = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    if (!call(made, (void *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1) + (socklen_t)length))
        return made;
    close(made); /* leaves errno as it is */
    return -1;
}

static int lock_names(void) /* BND-3; closing the socket gives the lock up */
{
    char name[32];
    int held;

    snprintf(name, sizeof name, "pvpmu-names-%u", (unsigned)getuid());
    while ((held = abstract(SOCK_DGRAM, name, bind)) < 0 && errno == EADDRINUSE)
        nanosleep(&moment, NULL);
    return held;
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

static volatile void *map(const char *name, uint64_t bytes) /* BND-5; NULL if it is none */
{
    int file = shm_open(name, O_RDWR | O_CLOEXEC, 0);
    struct stat about = {0};
    volatile struct pvpmu_segment *header = MAP_FAILED;

    if (file >= 0 && !fstat(file, &about) && (uint64_t)about.st_size >= bytes)
        header = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return header != MAP_FAILED && header->ready == PVPMU_SEGMENT_MAGIC &&
           header->version == PVPMU_SEGMENT_VERSION ? header : NULL;
}

static int owner_lives(const char *name)
{
    volatile struct pvpmu_segment *header = map(name, PVPMU_SEGMENT_HEADER_SIZE);

    return header && header->start && start_of(header->pid) == header->start;
}

static void leave(void) /* BND-11: leave no name */
{
    char published[sizeof theirs + 5];
    int lock, tries;

    /* The socket of a killed host closes a moment before its process has ended. */
    for (tries = 0; host_gone && *theirs && owner_lives(theirs) && tries < 200; tries++)
        nanosleep(&moment, NULL);
    lock = lock_names();
    if (owned)
        shm_unlink(mine);
    if (host_gone && *theirs && !owner_lives(theirs)) {
        sem_unlink(semaphores[0]);
        sem_unlink(semaphores[1]);
        shm_unlink(theirs);
        snprintf(published, sizeof published, "%s-live", theirs);
        shm_unlink(published);
    }
    close(lock);
}

void die(const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    fputs("pvpmu-c-guest: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    leave();
    exit(1);
}

static volatile void *make_memory(void) /* BND-3 */
{
    const uint64_t bytes = PVPMU_SEGMENT_HEADER_SIZE + PVPMU_PAGE_SIZE;
    volatile struct pvpmu_segment *header;
    int lock = lock_names(), file = -1;

    if (!owner_lives(mine)) {
        shm_unlink(mine);
        file = shm_open(mine, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    }
    owned = file >= 0;
    header = !owned || posix_fallocate(file, 0, (off_t)bytes) ? MAP_FAILED
             : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (header != MAP_FAILED) {
        header->version = PVPMU_SEGMENT_VERSION;
        header->pid = (uint64_t)getpid();
        header->start = start_of(header->pid);
        __atomic_store_n(&header->ready, PVPMU_SEGMENT_MAGIC, __ATOMIC_RELEASE);
    }
    close(lock);
    if (header == MAP_FAILED)
        die("%s: %s", mine, owned ? "no memory" : "belongs to a live guest, or cannot be made");
    close(file);
    return (volatile char *)header + PVPMU_SEGMENT_HEADER_SIZE;
}

/* msgpack: i a number, s a string, a and m an array and a map of n elements or pairs, 0 other. */
struct element { char kind; uint64_t n; const char *text; };

static struct element next(const unsigned char **at, const unsigned char *end)
{
    static const unsigned char heads[] = {0xcc, 0xcd, 0xce, 0xcf, 0xd0, 0xd1, 0xd2, 0xd3,
                                          0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf};
    static const unsigned char widths[] = {1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 2, 4, 2, 4};
    unsigned char head = *at < end ? *(*at)++ : 0xc0;
    struct element e = {0, head & (head < 0x80 ? 0x7f : head < 0xa0 ? 0xf : 0x1f), NULL};
    unsigned i, k;

    e.kind = head < 0x80 || head >= 0xe0 ? 'i' : head < 0x90 ? 'm' : head < 0xa0 ? 'a' : head < 0xc0 ? 's' : 0;
    for (k = 0; k < sizeof heads; k++)
        if (heads[k] == head && end - *at >= widths[k])
            for (e.kind = "iiiiiiiisssaamm"[k], e.n = 0, i = widths[k]; i; i--)
                e.n = e.n << 8 | *(*at)++;
    if (e.kind == 's') {
        e.text = (const char *)*at;
        e.n = (uint64_t)(end - *at) < e.n ? (uint64_t)(end - *at) : e.n;
        *at += e.n;
    }
    return e;
}

static void skip(const unsigned char **at, const unsigned char *end)
{
    struct element e = next(at, end);
    uint64_t inside = e.kind == 'm' ? 2 * e.n : e.kind == 'a' ? e.n : 0;

    for (; inside && *at < end; inside--)
        skip(at, end);
}

/* The value of a top-level key; `at` is moved behind it, into it if it has elements. */
static struct element field(const unsigned char **at, const unsigned char *end, const char *key)
{
    struct element e = next(at, end);
    uint64_t pairs = e.kind == 'm' ? e.n : 0;

    for (; pairs && *at < end; pairs--, skip(at, end)) {
        e = next(at, end);
        if (e.kind == 's' && e.n == strlen(key) && !memcmp(e.text, key, e.n))
            return next(at, end);
    }
    die("the host's answer has no %s", key);
}

static void greet(void) /* Hello, and Welcome or Refuse (BND-7 to BND-10) */
{
    static unsigned char packet[262144];
    static const char *const keys[] = {"version", "slot_bytes", "segment_bytes", "cpus", "semaphores"};
    const unsigned char *at, *end;
    struct element e;
    uint64_t n[5];
    int k, pid = (int)getpid();
    ssize_t length = snprintf((char *)packet, sizeof packet,
        "\x86\xa4type\xa5Hello\xa7version\x01\xa5vcpus\x01\xacmemory_bytes\xcd\x10%c\xa3pid\xce%c%c%c%c"
        "\xa6memory\xd9%c%s", 0, pid >> 24, pid >> 16, pid >> 8, pid, (int)strlen(mine + 1), mine + 1);

    if (send(control, packet, (size_t)length, MSG_NOSIGNAL) < 0 ||
        (length = recv(control, packet, sizeof packet, 0)) <= 0)
        HOST_HAS_GONE();
    end = packet + length;
    e = field((at = packet, &at), end, "type");
    if (e.n == 6 && !memcmp(e.text, "Refuse", 6)) {
        e = field((at = packet, &at), end, "reason");
        die("refused, code %d: %.*s", (int)field((at = packet, &at), end, "code").n, (int)e.n, e.text);
    }
    e = field((at = packet, &at), end, "segment");
    snprintf(theirs, sizeof theirs, "/%.*s", (int)e.n, e.text);
    for (k = 0; k < 5; k++)
        n[k] = field((at = packet, &at), end, keys[k]).n;
    if (n[0] != PVPMU_CONTROL_VERSION || n[1] < PVPMU_SLOT_SIZE || n[2] < n[1] || n[3] != 1 || n[4] != 1)
        die("Welcome is not for a guest of one vCPU: version %d, slot of %d bytes", (int)n[0], (int)n[1]);
    for (next(&at, end), k = 0; k < 2; k++) { /* the pair of vCPU 0 */
        e = next(&at, end);
        snprintf(semaphores[k], sizeof semaphores[k], "%.*s", (int)e.n, e.text);
    }
}

volatile void *attach(const char *name, double wait_s, void (*on_nmi)(struct pvpmu_guest *))
{
    volatile unsigned char *segment;
    volatile void *memory;
    char address[64];

    handler = on_nmi;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    if (strlen(name) > 48 || !*name || name[strspn(name, "abcdefghijklmnopqrstuvwxyz"
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")])
        die("%s is no VM name", name);
    snprintf(mine, sizeof mine, "/pvpmu.%s.guest", name);
    snprintf(address, sizeof address, "pvpmu/%s", name);
    memory = make_memory();
    while ((control = abstract(SOCK_SEQPACKET, address, connect)) < 0) {
        if (interrupted || (wait_s -= 0.005) < 0)
            die("no host of the name %s", name);
        nanosleep(&moment, NULL);
    }
    greet();
    segment = map(theirs, PVPMU_SEGMENT_HEADER_SIZE + PVPMU_SLOT_SIZE);
    exit_sem = sem_open(semaphores[0], 0);
    entry_sem = sem_open(semaphores[1], 0);
    if (!segment || exit_sem == SEM_FAILED || entry_sem == SEM_FAILED)
        die("%s or its semaphores are not as Welcome says", theirs);
    live.slot = (volatile void *)(segment + PVPMU_SEGMENT_HEADER_SIZE);
    return memory;
}

void detach(void)
{
    if (send(control, "\x81\xa4type\xa3" "Bye", 10, MSG_NOSIGNAL) < 0)
        HOST_HAS_GONE();
    leave();
}

static uint64_t cross(uint64_t request) /* post exit, wait for entry */
{
    struct timespec until;
    struct pollfd socket = {.fd = control, .events = POLLIN};
    uint64_t reply;

    if (interrupted)
        die("interrupted by signal %d", (int)interrupted);
    live.slot->request = request | live.flags | (in_handler ? PVPMU_REQUEST_NMI_BLOCKED : 0);
    exits_by[request]++;
    handler_exits += (uint64_t)in_handler;
    for (sem_post(exit_sem);;) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += (until.tv_nsec += 50000000) / 1000000000;
        until.tv_nsec %= 1000000000;
        if (!sem_timedwait(entry_sem, &until))
            break;
        if (poll(&socket, 1, 0) > 0) /* it speaks only when asked: this is its end */
            HOST_HAS_GONE();
    }
    reply = live.slot->reply;
    pvpmu_live_entered(&live);
    want_window |= (reply & PVPMU_REPLY_WANT_NMI_WINDOW) != 0;
    return reply;
}

int pvpmu_exit(struct pvpmu_guest *g, uint64_t reason, uint64_t address, uint64_t value,
               uint64_t result[2])
{
    uint64_t reply, entered;

    live.slot->address = address;
    live.slot->value = value;
    entered = reply = cross(reason);
    result[0] = live.slot->result;
    result[1] = live.slot->result_high;
    while (!in_handler && (entered & PVPMU_REPLY_INJECT_NMI || want_window)) { /* BND-14, BND-15 */
        if (entered & PVPMU_REPLY_INJECT_NMI) {
            in_handler = 1;
            pvpmu_look(g);
            handler(g);
            in_handler = 0;
        }
        entered = want_window ? (want_window = 0, cross(PVPMU_EXIT_NMI_WINDOW)) : 0;
    }
    return (reply & PVPMU_REPLY_FAULT_GP) != 0;
}
