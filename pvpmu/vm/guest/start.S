/* Entry, NMI, #GP, and the gate of the guest. GS is the vCPU's state, as guest.c has it.
 *
 * Everything but this file can run at CPL 3, where a hypervisor that emulates kernel code (PVM)
 * runs it natively: then RDMSR, WRMSR, CPUID, HLT and OUT are made here, behind INT3. Or all of it
 * runs at CPL 0. RDI at entry: the vCPU's box. Addresses are relative to RIP, so that it may lie
 * anywhere.
 */
#include "vm_constants.h"

#define WINDOW %gs:8
#define FAULT %gs:16
#define USER %gs:24        /* not 0: all of it but this file is at CPL 3 */
#define SAVED_RSP %gs:32   /* of a handler at CPL 3: the NMI's frame, and what SYSRET spoils */
#define SAVED_RCX %gs:40
#define SAVED_R11 %gs:48
#define NMI_STACK %gs:56
#define KERNEL_STACK %gs:64
#define TASK_RSP0 %gs:VM_TASK_RSP0

#define USER_FLAGS 0x2

    .section .start, "ax"
    .globl vm_start
vm_start:
    cmpq $0, USER
    jne enter_user
    call vm_main
1:  hlt
    jmp 1b
    .balign 64
    /* Where the IDT's gates go, from vm_start on: NMI, #GP, end of a handler, gate, faults. */
    .quad vm_nmi_entry - vm_start, vm_gp_entry - vm_start, vm_done_entry - vm_start
    .quad vm_gate_entry - vm_start, vm_other - vm_start

    .text
enter_user:
    xor %eax, %eax
    mov $((VM_USER_SELECTOR_BASE | 3) << 16 | VM_CODE_SELECTOR), %edx
    mov $0xc0000081, %ecx /* STAR */
    wrmsr
    lea vm_main(%rip), %rcx
    mov $USER_FLAGS, %r11d
    pushq $0 /* where a call leaves its return address */
    sysretq

/* INT3: what R9 says, with R10 in the place of RCX. Back by SYSRET, which leaves NMIs blocked. */
vm_gate_entry:
    mov %r10, %rcx
    cmp $VM_GATE_WRMSR, %r9d
    jne 1f
    wrmsr
    jmp 5f
1:  cmp $VM_GATE_RDMSR, %r9d
    jne 2f
    rdmsr
    jmp 5f
2:  cmp $VM_GATE_OUT, %r9d
    jne 3f
    out %al, %dx
    jmp 5f
3:  cmp $VM_GATE_CPUID, %r9d
    jne 4f
    cpuid
    mov %rcx, %r10
    jmp 5f
4:  cmp $VM_GATE_HLT, %r9d
    jne 5f
    hlt
5:  mov (%rsp), %rcx
    mov 16(%rsp), %r11
    mov 24(%rsp), %rsp
    sysretq

/* An NMI. At CPL 3 its handler is entered by SYSRET, which leaves NMIs blocked; what is on the stack of
 * CPL 0 now must not be overwritten by the handler's own way there. */
vm_nmi_entry:
    cmpq $0, USER
    je 1f
    mov %rsp, SAVED_RSP
    mov %rsp, TASK_RSP0
    mov %rcx, SAVED_RCX
    mov %r11, SAVED_R11
    mov NMI_STACK, %rsp
    lea user_nmi(%rip), %rcx
    mov $USER_FLAGS, %r11d
    sysretq
1:  push %rcx
    push %r11
    call handler
    pop %r11
    pop %rcx
leave_nmi:
    cmpq $0, WINDOW
    jne window
    iretq

user_nmi:
    call handler
    ud2 /* where a hypervisor emulates CPL 0, INT n is no way there */
vm_done_entry:
    mov KERNEL_STACK, %rsp
    mov %rsp, TASK_RSP0
    mov SAVED_RSP, %rsp
    mov SAVED_RCX, %rcx
    mov SAVED_R11, %r11
    jmp leave_nmi

/* vm_nmi() with every register but RCX and R11 as it was. */
handler:
    push %rax
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %rbx
    mov %gs:0, %rdi
    mov %rsp, %rbx
    and $-16, %rsp
    cld
    call vm_nmi
    mov %rbx, %rsp
    pop %rbx
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rax
    ret

/* While NMIs wait, IRET must be followed by an exit before anything else runs (BND-14): it returns to
 * 1: with NMIs unblocked, and from there to what was interrupted. */
window:
    movq $0, WINDOW
    push %rax
    push %rdx
    mov %rsp, %rax
    pushq $VM_DATA_SELECTOR
    push %rax
    pushfq
    pushq $VM_CODE_SELECTOR
    lea 1f(%rip), %rax
    push %rax
    iretq
1:  mov $(VM_PORT_REASON + 8), %edx /* NMI_WINDOW */
    out %al, %dx
    pop %rdx
    pop %rax
    iretq

/* #GP at an RDMSR or WRMSR (0F 32, 0F 30): note it and go on behind it. No IRET, which would unblock
 * NMIs within their handler. The frame: error code, RIP, CS, RFLAGS, RSP, SS. */
vm_gp_entry:
    push %rax
    push %rcx
    mov 24(%rsp), %rax
    cmpb $0x0f, (%rax)
    jne vm_other
    movb 1(%rax), %cl
    and $0xfd, %cl
    cmpb $0x30, %cl
    jne vm_other
    testb $3, 32(%rsp)
    jnz vm_other
    add $2, %rax
    movq $1, FAULT
    mov 48(%rsp), %rcx
    mov %rax, -8(%rcx)
    mov 40(%rsp), %rax
    mov %rax, -16(%rcx)
    sub $16, %rcx
    mov %rcx, 16(%rsp)
    pop %rcx
    pop %rax
    pop %rsp
    popfq
    ret

vm_other:
    mov 8(%rsp), %rax
    mov $VM_PORT_FAULT, %edx
1:  out %al, %dx
    jmp 1b

    .section .note.GNU-stack, "", @progbits
