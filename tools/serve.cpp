// serve.cpp - `ssm serve`: scores and remembers for another program, over standard input and output.
// SPDX-License-Identifier: MIT
#include "serve_rpc.hpp"

#include <cerrno>

#include <sys/stat.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {
using namespace tool;

const char help[] =
    "usage: ssm serve [--checkpoint FILE] [--native-dim N] [--items N] [--event-bytes B] [--isa NAME]\n"
    "\n"
    "Tells another program which of its items matter now. JSON-RPC 2.0: one request a line on standard input, one "
    "answer\n"
    "a line on standard output, in order, each written before the next request is waited for. A line may hold "
    "67108864\n"
    "bytes. Bad requests are answered with an error and change nothing. It ends with its input, or on SIGTERM.\n"
    "\n"
    "  status            {}\n"
    "                    -> trained, training_pairs, model_version, last_trained, native_dimensions, "
    "feature_dimensions\n"
    "  observe           events: [{text, embedding, id, ids, dt, kind, features}, ...], all optional; id, ids: the "
    "items an\n"
    "                    event is about; dt: seconds since the event before      -> steps, state_bytes\n"
    "  score             context_embedding, candidate_ids; optional candidate_embeddings, candidate_texts,\n"
    "                    candidate_features (17 numbers each), context_text, dt, observe_context, project_slot\n"
    "                    -> scores: [{id, score}, ...], best first; their sum is 1\n"
    "  train             context_embedding, candidate_embeddings, labels; optional temperature (0.5) and what score "
    "takes\n"
    "                    -> loss, step\n"
    "  reset             {}     forgets the events                               -> steps, state_bytes\n"
    "  save_checkpoint   path   model, what it learned, and state                -> saved\n"
    "  state_save, state_load   path   the state alone                           -> saved, loaded\n"
    "  train_from_db            is refused\n"
    "\n"
    "An embedding that is null or of another width, and whatever else is missing, is done without.\n"
    "\n"
    "  --checkpoint FILE   a model, or what save_checkpoint wrote; if there is none yet, or a bad one, it serves "
    "without\n"
    "  --native-dim N      the width of embeddings (default 768)\n"
    "  --items N           items to remember (default 4096); the one not heard of for longest goes first\n"
    "  --event-bytes B     memory for past events (default 262144, some 8,000 events)\n"
    "  --isa NAME          run on this back-end\n"
    "\n"
    "Other options are passed over.\n";

int serve_lines(serve::Rpc* rpc) {
    Output       out(1);
    LineReader   reader(0, &out, nullptr, serve::max_line_bytes);
    std::string& answer = out.memory();
    for (;;) {
        std::string_view line;
        switch (reader.next(&line)) {
        case LineReader::Result::line:
            rpc->line(line, &answer);
            break;
        case LineReader::Result::too_long:
            rpc->too_long(&answer);
            break;
        case LineReader::Result::error: {
            const std::string what = "standard input: " + system_error(reader.error());
            rpc->cannot_read(what, &answer);
            out.flush();
            return fail(io_error, "serve", what);
        }
        case LineReader::Result::end:
        case LineReader::Result::stopped:
            return stopped() ? done : finish("serve", &out);
        }
        if (!out.flush()) return stopped() ? done : finish("serve", &out);
        if (answer.capacity() > serve::kept_bytes) answer = std::string();
    }
}
} // namespace

int verb_serve(int argc, char** argv) {
    const char*    checkpoint = nullptr;
    int64_t        native_dim = 768;
    memory::Limits limits;
    int64_t        items = limits.items, event_bytes = limits.event_bytes;
    ssm::Isa       isa = ssm::Isa::best;
    Options        options("serve", help);
    options.text("--checkpoint", &checkpoint)
        .integer("--native-dim", &native_dim, 1, 65536)
        .integer("--items", &items, 16, 65535)
        .integer("--event-bytes", &event_bytes, 4096, 737280)
        .isa(&isa)
        .lenient();
    const int status = options.read(argc, argv, 0, size_t(argc));
    if (status != go_on) return status;
    if (!catch_signals()) return fail(io_error, "serve", "cannot catch signals: " + system_error(errno));

#ifdef __GLIBC__
    ::mallopt(M_MMAP_THRESHOLD, 1 << 20); // or what a long line took would stay in the heap
#endif

    // A checkpoint that is not there yet is how everyone begins.
    limits.items = uint32_t(items), limits.event_bytes = uint32_t(event_bytes);
    relevance::Sidecar sidecar(static_cast<int32_t>(native_dim), limits);
    std::string        why;
    struct stat        info;
    const bool         missing = checkpoint == nullptr || (::stat(checkpoint, &info) != 0 && errno == ENOENT);
    if (!missing && !sidecar.open("serve", checkpoint, isa, &why) && !why.empty())
        complain("serve", quoted_path(checkpoint) + ": " + why);

    serve::Rpc rpc(&sidecar, int32_t(native_dim));
    return serve_lines(&rpc);
}
