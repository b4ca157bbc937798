// inject.cpp - a preloaded library that makes one allocation or one system call of a program fail. For glibc.
//
// FAIL_KIND=malloc or calls: what is counted, from just before main() on. FAIL_AT=N: the N-th of them fails; 0: none.
// FAIL_HOW: of malloc, `once` or `on` (that one and all after it); of calls, `error` (with the errno that fits),
// `short` (read and write do half), `eintr` (read, write and poll), `kill`, `after` (done, then killed), `term`
// (SIGTERM comes). FAIL_REPORT: a file that gets the number counted, and what failed. SPDX-License-Identifier: MIT
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {
enum class How { once, on, error, halves, eintr, kill, after, term };
std::atomic<long> counted{0};
long              fail_at = -1;
bool              of_malloc = false, of_calls = false;
How               how = How::once;
const char*       report = nullptr;

// Without the functions of this file, so that nothing here is counted or fails.
void write_report(const char* text) {
    if (report == nullptr) return;
    const long fd = syscall(SYS_openat, AT_FDCWD, report, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) return;
    syscall(SYS_write, fd, text, std::strlen(text));
    syscall(SYS_close, fd);
}

__attribute__((constructor)) void begin() {
    const char *kind = std::getenv("FAIL_KIND"), *at = std::getenv("FAIL_AT"), *what = std::getenv("FAIL_HOW");
    report = std::getenv("FAIL_REPORT");
    if (kind == nullptr || at == nullptr || what == nullptr) return;
    fail_at = std::atol(at);
    const char* const names[] = {"once", "on", "error", "short", "eintr", "kill", "after", "term"};
    for (size_t i = 0; i < 8; ++i)
        if (std::strcmp(what, names[i]) == 0) how = How(i);
    of_malloc = std::strcmp(kind, "malloc") == 0, of_calls = std::strcmp(kind, "calls") == 0;
}
__attribute__((destructor)) void end() {
    if (fail_at != 0) return; // the report says what failed
    char text[32];
    std::snprintf(text, sizeof text, "%ld\n", counted.load());
    write_report(text);
}

bool fails(bool applies) { // one more
    if (!applies) return false;
    const long n = ++counted;
    return n == fail_at || (how == How::on && fail_at > 0 && n > fail_at);
}
bool no_memory() {
    if (!fails(of_malloc)) return false;
    errno = ENOMEM;
    return true;
}

// What becomes of a call. go: it is made as it is.
enum class Now { go, fail, half, dies };
Now call(const char* name, int fd, int error, bool transfers) {
    const bool counts = of_calls && ((how != How::halves && how != How::eintr) || transfers);
    if (!fails(counts)) return Now::go;
    char text[64];
    std::snprintf(text, sizeof text, "%s %d\n", name, fd);
    write_report(text);
    if (how == How::term) return ::raise(SIGTERM), Now::go;
    if (how == How::kill) ::raise(SIGKILL);
    if (how == How::after) return Now::dies;
    if (how == How::halves) return Now::half;
    errno = how == How::eintr ? EINTR : error;
    return Now::fail;
}
template <class T> T done(Now now, T result) {
    if (now == Now::dies) ::raise(SIGKILL);
    return result;
}
template <class F> F real(const char* name) {
    void* p = dlsym(RTLD_NEXT, name);
    F     f;
    std::memcpy(&f, &p, sizeof f);
    return f;
}
bool written[1024]; // descriptors opened for writing: an error of their close() is one of the file

int mode_of(int flags, va_list more) { return (flags & O_CREAT) != 0 ? va_arg(more, int) : 0; }
} // namespace

extern "C" {
void* malloc(size_t n) { return no_memory() ? nullptr : __libc_malloc(n); }
void* calloc(size_t n, size_t size) { return no_memory() ? nullptr : __libc_calloc(n, size); }
void* realloc(void* p, size_t n) { return no_memory() ? nullptr : __libc_realloc(p, n); }
void* aligned_alloc(size_t align, size_t n) { return no_memory() ? nullptr : __libc_memalign(align, n); }
int   posix_memalign(void** out, size_t align, size_t n) {
      if (no_memory()) return ENOMEM;
    *out = __libc_memalign(align, n);
      return *out == nullptr ? ENOMEM : 0;
}

int open(const char* path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const int mode = mode_of(flags, more);
    va_end(more);
    const Now now = call("open", -1, (flags & O_CREAT) != 0 ? ENOSPC : EACCES, false);
    if (now == Now::fail) return -1;
    const int fd = int(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
    if (fd >= 0 && fd < 1024) written[fd] = (flags & O_ACCMODE) != O_RDONLY;
    return done(now, fd);
}
int open64(const char* path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    const int mode = mode_of(flags, more);
    va_end(more);
    return open(path, flags, mode);
}
ssize_t read(int fd, void* to, size_t n) {
    const Now now = call("read", fd, EIO, true);
    return now == Now::fail ? -1 : done(now, ssize_t(syscall(SYS_read, fd, to, now == Now::half ? (n + 1) / 2 : n)));
}
ssize_t write(int fd, const void* from, size_t n) {
    const Now now = call("write", fd, ENOSPC, true);
    return now == Now::fail ? -1 : done(now, ssize_t(syscall(SYS_write, fd, from, now == Now::half ? (n + 1) / 2 : n)));
}
int fsync(int fd) {
    const Now now = call("fsync", fd, EIO, false);
    return now == Now::fail ? -1 : done(now, int(syscall(SYS_fsync, fd)));
}
int close(int fd) { // the descriptor is gone in any case
    const Now now = call(fd >= 0 && fd < 1024 && written[fd] ? "close-written" : "close", fd, EIO, false);
    const int r = int(syscall(SYS_close, fd));
    if (now == Now::fail) errno = EIO;
    return now == Now::fail ? -1 : done(now, r);
}
int rename(const char* from, const char* to) {
    const Now now = call("rename", -1, EROFS, false);
    return now == Now::fail ? -1 : done(now, int(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0)));
}
int unlink(const char* path) {
    const Now now = call("unlink", -1, EACCES, false);
    return now == Now::fail ? -1 : done(now, int(syscall(SYS_unlinkat, AT_FDCWD, path, 0)));
}
void* mmap(void* at, size_t n, int protection, int flags, int fd, off_t offset) {
    const Now now = call("mmap", fd, ENOMEM, false);
    return now == Now::fail ? MAP_FAILED
                            : done(now, real<decltype(&mmap)>("mmap")(at, n, protection, flags, fd, offset));
}
void* mmap64(void* at, size_t n, int protection, int flags, int fd, off_t offset) {
    return mmap(at, n, protection, flags, fd, offset);
}
int munmap(void* at, size_t n) {
    const Now now = call("munmap", -1, EINVAL, false);
    return now == Now::fail ? -1 : done(now, int(syscall(SYS_munmap, at, n)));
}
int stat(const char* path, struct stat* out) {
    const Now now = call("stat", -1, EIO, false);
    return now == Now::fail ? -1 : done(now, real<decltype(&stat)>("stat")(path, out));
}
int fstat(int fd, struct stat* out) {
    const Now now = call("fstat", fd, EIO, false);
    return now == Now::fail ? -1 : done(now, real<decltype(&fstat)>("fstat")(fd, out));
}
int poll(pollfd* all, nfds_t n, int timeout) {
    const bool transfers = how != How::halves; // half a poll is none
    const Now  now = call("poll", -1, ENOMEM, transfers);
    return now == Now::fail ? -1 : done(now, real<decltype(&poll)>("poll")(all, n, timeout));
}
int pipe(int ends[2]) {
    const Now now = call("pipe", -1, EMFILE, false);
    return now == Now::fail ? -1 : done(now, real<decltype(&pipe)>("pipe")(ends));
}
int sigaction(int signal, const struct sigaction* action, struct sigaction* old) {
    const Now now = call("sigaction", -1, EINVAL, false);
    return now == Now::fail ? -1 : done(now, real<decltype(&sigaction)>("sigaction")(signal, action, old));
}
}
