// ssm.cpp - the program: main, usage, and which verb is meant.
// SPDX-License-Identifier: MIT
#include "tool.hpp"

#include <cerrno>
#include <cstring>
#include <exception>
#include <new>

#include <fcntl.h>
#include <unistd.h>

namespace {

const char usage[] = "usage: ssm VERB [OPTION...] [FILE...]\n"
                     "\n"
                     "Runs small recurrent state-space models. Data on standard input, results on standard output.\n"
                     "\n"
                     "  inspect FILE           tensors and metadata of any safetensors file\n"
                     "  info MODEL             what a model is and what it needs\n"
                     "  score MODEL            runs a model over records on standard input\n"
                     "  serve                  scores and remembers for another program: JSON-RPC on standard input\n"
                     "  rank MODEL             ranks the items of a change history by relevance now\n"
                     "  eval MODEL DATA        measures a model on a data set\n"
                     "  train ...              trains a small model on this CPU\n"
                     "  convert IN OUT         makes a model of this program from a checkpoint and its config.json\n"
                     "  quantize IN OUT        makes a model that runs on integers alone\n"
                     "  compare A B            what two models differ in, and how far their outputs drift apart\n"
                     "  selftest FILE...       replays golden files on every back-end of this machine\n"
                     "  bench MODEL            how fast it is here, and how fast this machine could be\n"
                     "  help, version\n"
                     "\n"
                     "ssm VERB --help says more. Exit status: 0 done; 1 some records or checks failed; 2 wrong usage;\n"
                     "3 bad model or state file; 4 input/output error.\n";

const struct {
    const char* name;
    int (*run)(int, char**);
} verbs[] = {
    {"inspect", verb_inspect}, {"info", verb_info},         {"score", verb_score},       {"rank", verb_rank},
    {"eval", verb_eval},       {"train", verb_train},       {"selftest", verb_selftest}, {"bench", verb_bench},
    {"convert", verb_convert}, {"quantize", verb_quantize}, {"compare", verb_compare},   {"serve", verb_serve},
};

// A descriptor 0, 1 or 2 that is closed would be taken by the next file opened, and output would land in it. Each is
// put on /dev/null opened the wrong way round, so that its use fails as that of a closed one does.
bool fill_standard_descriptors() {
    for (int fd = 0; fd < 3; ++fd)
        if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF && ::open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd)
            return false;
    return true;
}

// A file that another program cuts short while it is mapped: the pages that are gone cannot be read. Nothing is being
// written then (a state is saved from memory), so the program says so and ends.
extern "C" void on_lost_page(int number, siginfo_t* info, void*) {
    if (info->si_code != BUS_ADRERR) { // something else: as if nobody had asked
        std::signal(number, SIG_DFL);
        return;
    }
    const char line[] = "ssm: a file was cut short while it was being read\n";
    if (::write(2, line, sizeof line - 1) < 0) {
    } // nowhere else to say it
    ::_exit(tool::io_error);
}
void catch_lost_pages() { // where that cannot be done, the signal ends the program as before
    struct sigaction action = {};
    action.sa_sigaction = on_lost_page;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGBUS, &action, nullptr);
}

int print(const char* text) {
    tool::Output out(1);
    out.write(text);
    return tool::finish("", &out);
}

int run(int argc, char** argv) {
    if (argc < 2) {
        tool::Output(2).write(usage);
        return tool::bad_usage;
    }
    const std::string_view verb = argv[1];
    if (verb == "version" || verb == "--version") return print("ssm " SSM_VERSION "\n");
    if (verb == "help" || verb == "--help" || verb == "-h") {
        if (argc == 2) return print(usage);
        char  help[] = "--help";
        char* args[] = {help, nullptr};
        for (const auto& v : verbs)
            if (std::strcmp(v.name, argv[2]) == 0) return v.run(1, args);
        return tool::fail(tool::bad_usage, "", "unknown verb \"" + tool::escape(argv[2]) + "\"; see ssm help");
    }
    for (const auto& v : verbs)
        if (verb == v.name) return v.run(argc - 2, argv + 2);
    return tool::fail(tool::bad_usage, "", "unknown verb \"" + tool::escape(verb) + "\"; see ssm help");
}
} // namespace

int main(int argc, char** argv) {
    if (!fill_standard_descriptors()) return tool::io_error;
    std::signal(SIGPIPE, SIG_IGN); // a reader that leaves shows as an error of write()
    catch_lost_pages();
    const char* what = "out of memory";
    try {
        return run(argc, argv);
    } catch (const std::bad_alloc&) {
    } catch (const std::exception&) {
        what = "unexpected failure";
    }
    // No memory may be left for a message made at run time.
    char         line[64] = "ssm: ";
    const size_t n = std::strlen(what);
    std::memcpy(line + 5, what, n);
    line[5 + n] = '\n';
    if (::write(2, line, n + 6) < 0) {
    } // nowhere else to say it
    return tool::io_error;
}
