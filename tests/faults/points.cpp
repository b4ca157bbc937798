// points.cpp - runs a command once for each allocation or system call it makes, that one failing, and looks at what
// came of it. See inject.cpp for KIND and HOW.
//
//   points LIBRARY KIND HOW [-i STDIN] [-w FILE]... [-o FILE]... [-s] [-m MOST] -- COMMAND...
//
// -w FILE: one that the command writes; it must then be what it was before, or what a run without a fault makes of it,
// or what is in a FILE of -o. -s: a service, which may answer a failure and go on. -m MOST: so many points, evenly
// spread, instead of all. Prints "failed N of N" (points that came out as documented, of all) and each that did not.
// SPDX-License-Identifier: MIT
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {
struct Content {
    bool        there = false;
    std::string bytes;
    bool        operator==(const Content& o) const { return there == o.there && bytes == o.bytes; }
};
Content content(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    Content       c;
    if (!in) return c;
    c.there = true, c.bytes.assign(std::istreambuf_iterator<char>(in), {});
    return c;
}
void put(const std::string& path, const Content& c) {
    ::unlink(path.c_str());
    if (c.there) std::ofstream(path, std::ios::binary) << c.bytes;
}

struct Setup {
    std::string              library, kind, how, input = "/dev/null";
    std::vector<std::string> files, others;
    bool                     service = false;
    long                     most = 0;
    char**                   command = nullptr;
};
struct Result {
    int         status = 0; // of wait
    long        pid = 0;
    std::string out, err, report;
    bool        exited() const { return WIFEXITED(status); }
    int         code() const { return WEXITSTATUS(status); }
};

void onto(int fd, const char* path, int flags) {
    const int from = ::open(path, flags, 0644);
    if (from < 0 || ::dup2(from, fd) < 0) ::_exit(126);
    ::close(from);
}
Result run(const Setup& s, long at) {
    ::unlink("points.report");
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(60); // a hang shows as a signal
        onto(0, s.input.c_str(), O_RDONLY);
        onto(1, "points.out", O_WRONLY | O_CREAT | O_TRUNC);
        onto(2, "points.err", O_WRONLY | O_CREAT | O_TRUNC);
        ::setenv("FAIL_KIND", s.kind.c_str(), 1), ::setenv("FAIL_HOW", s.how.c_str(), 1);
        ::setenv("FAIL_AT", std::to_string(at).c_str(), 1), ::setenv("FAIL_REPORT", "points.report", 1);
        ::setenv("LD_PRELOAD", s.library.c_str(), 1);
        ::execvp(s.command[0], s.command);
        ::_exit(126);
    }
    Result r;
    if (child < 0 || ::waitpid(child, &r.status, 0) != child) std::exit(2);
    r.pid = child;
    r.out = content("points.out").bytes, r.err = content("points.err").bytes, r.report = content("points.report").bytes;
    return r;
}

// What is wrong with a run; empty: nothing. `olds`, `news`: what the files may hold.
std::string wrong(const Setup& s, const Result& r, const Result& good, const std::vector<Content>& olds,
                  const std::vector<Content>& news) {
    const bool dies = s.how == "kill" || s.how == "after";
    for (size_t i = 0; i < s.files.size(); ++i) {
        const Content now = content(s.files[i]);
        // A signal may come before all of the input was read: a state in between, that the next run goes on from.
        if (!(now == olds[i]) && !(now == news[i]) && (s.how != "term" || run(s, -1).code() > 1))
            if (std::none_of(s.others.begin(), s.others.end(), [&](const std::string& o) { return content(o) == now; }))
                return s.files[i] + " is neither the old one nor the new";
        if (r.exited() && r.code() == 0 && s.how != "term" && !s.service && !(now == news[i]))
            return s.files[i] + " is not the new one, and the status is 0";
        for (const std::string& end : {std::string(".tmp"), ".tmp" + std::to_string(r.pid)}) {
            const bool left = content(s.files[i] + end).there;
            ::unlink((s.files[i] + end).c_str());
            if (left && !dies && r.report.compare(0, 6, "unlink") != 0) return s.files[i] + end + " was left behind";
        }
    }
    if (dies) return r.exited() ? "it did not die" : "";
    if (s.how == "term" && !r.exited() && WTERMSIG(r.status) == SIGTERM) return ""; // before it was caught
    if (!r.exited()) return "ended by signal " + std::to_string(WTERMSIG(r.status));
    const int code = r.code();
    if (code != 0 && code != 1 && code != 3 && code != 4) return "status " + std::to_string(code);
    const auto of = [](const std::string& text) { return std::count(text.begin(), text.end(), '\n'); };
    const auto lines = of(r.err), before = of(good.err);                  // bad records have a line each
    const bool told = r.report != "write 2\n" && r.report != "write 1\n"; // or the fault is that it cannot tell
    if (lines > before + 1 || r.err.size() > good.err.size() + 400 ||
        (code > 1 && told && s.how != "term" && lines < 1))
        return "status " + std::to_string(code) + " with " + std::to_string(lines) + " lines on standard error";
    if (!r.err.empty() && r.err.back() != '\n') return "half a line on standard error";
    if (s.service) return "";
    const auto failed = [&](const char* call) { return r.report.compare(0, std::strlen(call), call) == 0; };
    if (s.how == "error" && code < 3 &&
        (failed("fsync") || failed("rename") || failed("close-written") || (failed("write") && !failed("write 2"))))
        return "a file that may not be there, and the status does not say so";
    if (s.how == "term") return code <= 1 ? "" : "status " + std::to_string(code);
    if ((s.how == "short" || s.how == "eintr") && code != good.code()) return "status " + std::to_string(code);
    if (code == good.code() && r.out != good.out) return "other output, but the same status";
    if (good.out.compare(0, r.out.size(), r.out) != 0) return "output that is not the beginning of the right one";
    return "";
}
} // namespace

int main(int argc, char** argv) {
    Setup s;
    int   i = 4;
    for (; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
        const std::string option = argv[i];
        if (option == "-s") s.service = true;
        else if (i + 1 < argc && option == "-i") s.input = argv[++i];
        else if (i + 1 < argc && option == "-w") s.files.push_back(argv[++i]);
        else if (i + 1 < argc && option == "-o") s.others.push_back(argv[++i]);
        else if (i + 1 < argc && option == "-m") s.most = std::atol(argv[++i]);
    }
    if (i + 1 >= argc) return std::fputs("usage: points LIBRARY KIND HOW [OPTION...] -- COMMAND...\n", stderr), 2;
    s.library = argv[1], s.kind = argv[2], s.how = argv[3], s.command = argv + i + 1;

    std::vector<Content> olds, news;
    for (const std::string& f : s.files) olds.push_back(content(f));
    const Result good = run(s, 0);
    const long   all = std::atol(good.report.c_str());
    if (!good.exited() || good.code() > 1 || all < 1) {
        std::fprintf(stderr, "points: without a fault: status %d, %ld points, %s\n", good.status, all,
                     good.err.c_str());
        return 2;
    }
    for (const std::string& f : s.files) news.push_back(content(f));
    const long tried = s.most > 0 ? std::min(s.most, all) : all;
    long       passed = 0;
    for (long k = 0; k < tried; ++k) {
        const long at = 1 + (tried < all ? k * (all - 1) / (tried - 1) : k);
        for (size_t f = 0; f < s.files.size(); ++f) put(s.files[f], olds[f]);
        const Result      r = run(s, at);
        const std::string what = wrong(s, r, good, olds, news);
        if (what.empty()) ++passed;
        else
            std::fprintf(stderr, "point %ld of %ld (%s %s %.*s): %s; standard error: %.200s\n", at, all, s.kind.c_str(),
                         s.how.c_str(), int(std::strcspn(r.report.c_str(), "\n")), r.report.c_str(), what.c_str(),
                         r.err.c_str());
    }
    for (size_t f = 0; f < s.files.size(); ++f) put(s.files[f], olds[f]);
    std::printf("failed %ld of %ld\n", passed, tried);
    return passed == tried ? 0 : 1;
}
