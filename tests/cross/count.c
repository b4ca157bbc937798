/* count.c - a plugin of QEMU that counts instructions between two places of a program. SPDX-License-Identifier: MIT

   qemu-... -plugin count.so,begin=ADDRESS,end=ADDRESS,next=ADDRESS -d plugin ...

   begin and end stand around each thing that is counted, next behind a group of such: it writes "counted N things, M
   instructions" and begins anew. Addresses are those of nm. Exact, and the same in every run; not a measure of time.
   QEMU's header for plugins is not in every distribution, so what is used of it (its version 1) is declared here. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
size_t   qemu_plugin_tb_n_insns(const struct qemu_plugin_tb*);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn*);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb*, size_t);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb*));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn*, void (*)(unsigned, void*), int, void*);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn*, int, void*, uint64_t);
void qemu_plugin_outs(const char*);

int qemu_plugin_version = 1;
int qemu_plugin_install(uint64_t id, const void* info, int argc, char** argv);

static uint64_t place[3]; /* begin, end, next */
static uint64_t executed, begun, things, instructions;

static void reached(unsigned cpu, void* which) {
    char text[80];
    (void)cpu;
    if (which == &place[0]) begun = executed;
    if (which == &place[1]) ++things, instructions += executed - begun;
    if (which != &place[2]) return;
    snprintf(text, sizeof text, "counted %" PRIu64 " things, %" PRIu64 " instructions\n", things, instructions);
    qemu_plugin_outs(text);
    things = instructions = 0;
}
static void translated(uint64_t id, struct qemu_plugin_tb* block) {
    const size_t n = qemu_plugin_tb_n_insns(block);
    (void)id;
    for (size_t i = 0; i < n; ++i) {
        struct qemu_plugin_insn* one = qemu_plugin_tb_get_insn(block, i);
        qemu_plugin_register_vcpu_insn_exec_inline(one, 0, &executed, 1); /* 0: add */
        for (int k = 0; k < 3; ++k)
            if (qemu_plugin_insn_vaddr(one) == place[k])
                qemu_plugin_register_vcpu_insn_exec_cb(one, reached, 0, &place[k]); /* 0: reads no registers */
    }
}
int qemu_plugin_install(uint64_t id, const void* info, int argc, char** argv) {
    static const char* const names[3] = {"begin=", "end=", "next="};
    (void)info;
    for (int i = 0; i < argc; ++i)
        for (int k = 0; k < 3; ++k)
            if (strncmp(argv[i], names[k], strlen(names[k])) == 0)
                place[k] = strtoull(argv[i] + strlen(names[k]), NULL, 0) & ~(uint64_t)1; /* without the bit of Thumb */
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
