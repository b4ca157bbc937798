// score.cpp - `ssm score`: runs a model over records or raw frames on standard input.
// SPDX-License-Identifier: MIT
#include "gpu.hpp"
#include "score.hpp"

#include <cerrno>
#include <cmath>
#include <cstring>

namespace {
using namespace tool;

const char help[] =
    "usage: ssm score MODEL [OPTION...] < RECORDS\n"
    "\n"
    "Runs a model over a stream of events. One record a line (LF or CR LF), numbers separated by blanks or a comma:\n"
    "\n"
    "  0.1, 0.2, 0.3        an event: the state advances; the output vector is printed on one line\n"
    "  + 0.1 0.2 0.3        the same, nothing printed (\"+0.1\" without a blank is a number with its sign)\n"
    "  ? 0.1 0.2 0.3        a candidate: scored as if it were the next event; the state does not move\n"
    "  !                    back to the initial state\n"
    "  dt=2.5 0.1 0.2 0.3   time since the event before, in training steps; also behind + and ?\n"
    "  # ...                a comment; blank lines are skipped\n"
    "\n"
    "A line that begins with { is JSON and gets one JSON line as its answer:\n"
    "\n"
    "  {\"x\":[...]}                  {\"y\":[...]}        {\"candidate\":[...]}          {\"y\":[...]}\n"
    "  {\"candidates\":[[...],...]}   {\"ys\":[[...],...]} {\"advance\":[...]}            {\"ok\":true}\n"
    "  {\"reset\":true}               {\"ok\":true}        anything else              {\"error\":\"line N: ...\"}\n"
    "\n"
    "with \"dt\" (a number) and \"id\" (a number, a string or null, echoed) where wanted. An output that is not finite "
    "is null.\n"
    "A bad record is one line on standard error (text) or one answer (JSON); it changes nothing, and the exit status "
    "is 1.\n"
    "A line may hold 1048576 bytes.\n"
    "\n"
    "A model of tokens takes one integer, the token's id, where others take their numbers.\n"
    "\n"
    "  --s16 RATE      raw frames: 16-bit little-endian integers / 32768, RATE frames a second; where the model's "
    "metadata\n"
    "                  has sample_rate, each step takes sample_rate / RATE training steps\n"
    "  --f32           raw frames: 32-bit little-endian floats\n"
    "  --u8            raw frames: bytes / 255; for a model of tokens, ids\n"
    "                  A model of sound reads d_input samples a step; its last step is filled with silence. Listen "
    "live:\n"
    "                  arecord -q -t raw -f S16_LE -c 1 -r 8000 | ssm score weights/digits-i8.safetensors --s16 8000\n"
    "  --last          raw frames: print the last output only, not one for each frame\n"
    "  --load-state F  begin with the state saved in F\n"
    "  --save-state F  save the state at the end of input, and on SIGINT or SIGTERM; F is replaced as a whole or not "
    "at all\n"
    "  --isa NAME      run on this back-end\n"
    "  --cuda          run on the first GPU: the same outputs\n";

enum class Format { lines, s16, f32, u8 };

size_t sample_bytes(Format f) { return f == Format::s16 ? 2 : f == Format::f32 ? 4 : 1; }
float  sample(Format f, const unsigned char* p, bool token) {
     if (f == Format::u8) return static_cast<float>(p[0]) / (token ? 1.0f : 255.0f);
    if (f == Format::s16) {
         const int v = p[0] | p[1] << 8;
         return static_cast<float>(v < 32768 ? v : v - 65536) / 32768.0f;
    }
     const uint32_t bits = uint32_t(p[0]) | uint32_t(p[1]) << 8 | uint32_t(p[2]) << 16 | uint32_t(p[3]) << 24;
     float          v;
     std::memcpy(&v, &bits, 4);
     return v;
}

int input_error(int number) { return fail(io_error, "score", "standard input: " + system_error(number)); }

// Records, one a line, to the end of input or a signal.
int score_lines(Scorer* scorer, Output* out, Output* err) {
    LineReader reader(0, out, err);
    bool       all_good = true;
    for (;;) {
        std::string_view line;
        switch (reader.next(&line)) {
        case LineReader::Result::line:
            all_good &= scorer->line(line, reader.number());
            break;
        case LineReader::Result::too_long:
            all_good &= scorer->too_long(line, reader.number());
            break;
        case LineReader::Result::error:
            err->flush();
            return input_error(reader.error());
        case LineReader::Result::end:
        case LineReader::Result::stopped:
            return all_good ? done : some_failed;
        }
    }
}

// Raw frames. A frame cut short by the end of input is one error.
int score_frames(const ssm::Model& model, Scorer* scorer, Format format, float dt, bool last_only, Output* out,
                 Output* err) {
    const bool                 tokens = model.config.input == ssm::Input::tokens;
    const size_t               d_input = tokens ? 1 : size_t(model.config.d_input);
    const size_t               frame_bytes = d_input * sample_bytes(format);
    std::vector<unsigned char> bytes((65536 / frame_bytes + 1) * frame_bytes);
    std::vector<float>         x(d_input);
    size_t                     have = 0;
    uint64_t                   number = 0;
    bool                       all_good = true;
    for (;;) {
        if (!out->flush()) return io_error;
        err->flush();
        const long n = read_some(0, bytes.data() + have, bytes.size() - have);
        if (n == -1) return input_error(errno);
        if (n <= 0) {
            if (n == 0 && have > 0 && model.config.n_bands > 0 && have % sample_bytes(format) == 0) { // then silence
                std::fill(bytes.begin() + ptrdiff_t(have), bytes.begin() + ptrdiff_t(frame_bytes),
                          static_cast<unsigned char>(0));
                for (size_t k = 0; k < d_input; ++k) x[k] = sample(format, &bytes[k * sample_bytes(format)], false);
                all_good &= scorer->frame(x.data(), ++number, !last_only, dt);
            } else if (n == 0 && have > 0)
                all_good =
                    scorer->bad("frame", number + 1,
                                "expected " + std::to_string(frame_bytes) + " bytes, got " + std::to_string(have));
            break;
        }
        have += size_t(n);
        size_t at = 0;
        for (; have - at >= frame_bytes; at += frame_bytes) {
            for (size_t k = 0; k < d_input; ++k) x[k] = sample(format, &bytes[at + k * sample_bytes(format)], tokens);
            all_good &= scorer->frame(x.data(), ++number, !last_only, dt);
            if (stopped() || !out->good()) break;
        }
        std::memmove(bytes.data(), bytes.data() + at, have - at);
        have -= at;
    }
    if (last_only) scorer->print_last();
    return all_good ? done : some_failed;
}
} // namespace

int verb_score(int argc, char** argv) {
    // 1. The command line.
    int64_t     rate = 0;
    bool        f32 = false, u8 = false, last_only = false, cuda = false;
    const char *load_path = nullptr, *save_path = nullptr;
    ssm::Isa    isa = ssm::Isa::best;
    Options     options("score", help);
    options.integer("--s16", &rate, 1, 1000000000).flag("--f32", &f32).flag("--u8", &u8).flag("--last", &last_only);
    options.text("--load-state", &load_path).text("--save-state", &save_path).isa(&isa).flag("--cuda", &cuda);
    int status = options.read(argc, argv, 1, 1);
    if (status != go_on) return status;
    if (int(rate > 0) + int(f32) + int(u8) > 1)
        return fail(bad_usage, "score", "expected at most one of --s16, --f32, --u8");
    const Format format = rate > 0 ? Format::s16 : f32 ? Format::f32 : u8 ? Format::u8 : Format::lines;
    if (last_only && format == Format::lines) return fail(bad_usage, "score", "--last needs one of --s16, --f32, --u8");

    // 2. The model and its state.
    constexpr int32_t batch = 64;
    OpenModel         m;
    if ((status = open_model("score", options.operands[0], isa, 1, batch, &m)) != done) return status;
    if (m.config.input == ssm::Input::tokens && (format == Format::s16 || format == Format::f32))
        return fail(bad_usage, "score", "a model of tokens takes lines or --u8");
    ssm::State   state;
    ssm::Scratch scratch;
    if (ssm::make_state(&state, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_scratch(&scratch, m.model, batch, &m.arena) != ssm::Status::ok)
        return fail(bad_file, "score", escape(options.operands[0], 160) + ": the memory for it is too small");
    float       dt = 1.0f;
    std::string trained;
    if (rate > 0 && m.metadata("sample_rate", &trained)) {
        float hertz = 0.0f;
        if (trained.empty() || ssm::parse_float(trained.data(), trained.size(), &hertz) != trained.size() ||
            !(hertz > 0.0f && hertz <= 1e9f))
            return fail(bad_file, "score",
                        escape(options.operands[0], 160) + ": metadata \"sample_rate\": got \"" + escape(trained) +
                            "\", expected a number of samples a second");
        dt = static_cast<float>(static_cast<double>(hertz) / static_cast<double>(rate));
        if (m.config.n_bands > 0 && dt != 1.0f)
            return fail(bad_usage, "score", "--s16: a model of sound needs its own rate, " + escape(trained, 40));
        if (!(dt > 0.0f && dt <= ssm::max_dt))
            return fail(bad_usage, "score", "--s16: the rate is too far from the model's");
    }
    if (load_path != nullptr) {
        std::string bytes;
        if ((status = read_file("score", load_path, ssm::saved_bytes(m.config), &bytes)) != done) return status;
        ssm::Fault        fault;
        const ssm::Status s = ssm::restore(m.model, &state, bytes.data(), bytes.size(), &fault);
        if (s != ssm::Status::ok) return fail(bad_file, "score", escape(load_path, 160) + ": " + describe(s, fault));
    }

    Gpu gpu;
    if (cuda && (status = gpu.open("score", m.model, 1, batch)) != done) return status;
    if (cuda && gpu.put_state(0, state) != ssm::Status::ok) return io_error;

    // 3. The stream.
    if (!catch_signals()) return fail(io_error, "score", "cannot catch signals: " + system_error(errno));
    Output out(1), err(2);
    Scorer scorer(m.model, &state, &scratch, &out, &err);
    if (cuda) scorer.gpu = &gpu;
    status = format == Format::lines ? score_lines(&scorer, &out, &err)
                                     : score_frames(m.model, &scorer, format, dt, last_only, &out, &err);
    err.flush();
    const int written = finish("score", &out);
    if (written != done) return written;
    if (status == io_error || save_path == nullptr) return status;

    // 4. The state.
    if (cuda && gpu.get_state(0, &state) != ssm::Status::ok) return io_error;
    std::string bytes(ssm::saved_bytes(m.config), '\0');
    if (ssm::save(m.model, state, bytes.data(), bytes.size()) == 0)
        return fail(bad_file, "score", "the state holds NaN or infinity, from a step that overflowed: it is not saved");
    const int saved = save_file("score", save_path, bytes);
    return saved != done ? saved : status;
}
