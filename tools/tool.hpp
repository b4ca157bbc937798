// tool.hpp - what the verbs of the program share: options, errors in one line, input, output, models, files.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_TOOL_HPP
#define SSM_TOOLS_TOOL_HPP

#include "../ssm.hpp"

#include <csignal>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

// The verbs. argv holds what stands behind the verb. Each returns the exit status of the program.
int verb_inspect(int argc, char** argv);
int verb_info(int argc, char** argv);
int verb_score(int argc, char** argv);
int verb_selftest(int argc, char** argv);
int verb_eval(int argc, char** argv);
int verb_rank(int argc, char** argv);
int verb_train(int argc, char** argv);
int verb_bench(int argc, char** argv);
int verb_convert(int argc, char** argv);
int verb_quantize(int argc, char** argv);
int verb_compare(int argc, char** argv);
int verb_serve(int argc, char** argv);

namespace tool {

// Exit statuses.
constexpr int done = 0;
constexpr int some_failed = 1; // some records or checks failed
constexpr int bad_usage = 2;
constexpr int bad_file = 3; // a bad model or state file
constexpr int io_error = 4;
constexpr int go_on = -1; // not an exit status: nothing is wrong so far

constexpr size_t max_line_bytes = size_t(1) << 20; // of a record, without its newline
constexpr size_t max_name_bytes = 80;              // of a name in a message
constexpr size_t max_message_bytes = 400;          // of a line on standard error

// ---- Text

// The length of the valid UTF-8 sequence at text[i], and its code point; 0 if there is none.
size_t utf8_sequence(std::string_view text, size_t i, uint32_t* point);

// Text from a file or the command line, fit for a terminal and a log: control characters, quotes, the backslash and
// invalid UTF-8 become \xNN, bidirectional and other invisible controls \u{...}. Cut to `cap` bytes, the last three
// then "...". `plain`: bytes that stay as they are although they would be escaped (JSON text keeps its backslashes).
std::string escape(std::string_view text, size_t cap = max_name_bytes, std::string_view plain = "");

std::string quoted_path(const std::string& path); // a path in a message
std::string quoted(std::string_view text);        // a name or word in a message

// A float as `%.9g`: nine digits bring every float back. The program never calls setlocale(), so the C locale holds and
// the decimal mark is a point. Appends.
void append_float(std::string* out, float v);
// The same for JSON, which has no NaN and no infinity: null.
void append_json_float(std::string* out, float v);
// Bytes (valid UTF-8) as a JSON string with its quotes.
void append_json_string(std::string* out, std::string_view text);

// ---- Errors

// One line on standard error: `ssm VERB: WHAT`. Cut to max_message_bytes. `what` must have its foreign parts escaped.
void        complain(const char* verb, const std::string& what);
int         fail(int status, const char* verb, const std::string& what); // complain, then return status
std::string system_error(int number);                                    // text of an errno
// What a Status and a Fault say: `tensor "NAME": what was found, what was expected`.
std::string describe(ssm::Status s, const ssm::Fault& fault);

// ---- Options

// Options may stand anywhere on the line, as `--name value` or `--name=value`; `--` ends them. A repeated option: the
// last one counts. `help` is printed for --help.
class Options {
  public:
    Options(const char* verb, const char* help) : verb_(verb), help_(help) {}
    Options& flag(const char* name, bool* out);
    Options& text(const char* name, const char** out);
    Options& word(const char* name, const char** out, std::vector<const char*> words); // one of these
    Options& list(const char* name, std::vector<const char*>* out);                    // every one of a repeated option
    Options& integer(const char* name, int64_t* out, int64_t low, int64_t high);
    Options& number(const char* name, double* out, double low, double high);
    Options& isa(ssm::Isa* out); // --isa NAME: a back-end of this build and this CPU
    Options& lenient() { return lenient_ = true, *this; } // options it does not know are passed over
    // Reads the line. Returns go_on, or the status to leave with (the message is out by then).
    int                      read(int argc, char** argv, size_t min_operands, size_t max_operands);
    std::vector<const char*> operands;

  private:
    enum class Kind { flag, text, word, list, integer, number, isa };
    struct Option {
        Kind        kind;
        const char* name;
        void*       out;
        int64_t     low, high;
        double      least, most;

        std::vector<const char*> words = {};
    };
    int                 take(const Option& o, const char* value);
    const char*         verb_;
    const char*         help_;
    bool                lenient_ = false;
    std::vector<Option> options_;
};

// ---- Output and input

// A buffered writer on a descriptor. Every result of write() is looked at; after a failure nothing more is written and
// finish() tells. Descriptor -1: kept in memory (tests).
class Output {
  public:
    explicit Output(int fd) : fd_(fd) {}
    ~Output() { flush(); }
    Output(const Output&) = delete;
    Output&      operator=(const Output&) = delete;
    void         write(std::string_view text);
    bool         flush();
    bool         good() const { return error_ == 0; }
    int          error() const { return error_; } // an errno
    std::string& memory() { return buffer_; }

  private:
    int         fd_;
    int         error_ = 0;
    std::string buffer_;
};

// Flushes standard output; done, or io_error with its message. A reader that has left is no message, only the status.
int finish(const char* verb, Output* out);

// Set by SIGINT and SIGTERM once catch_signals() was called; a wait in read_some() then ends.
bool stopped();
bool catch_signals();

// Waits for input, unless a signal came first. > 0: bytes read; 0: end; -1: error, in errno; -2: stopped. Works on
// descriptors in non-blocking mode too.
long read_some(int fd, void* to, size_t bytes);

// Records, one a line, in constant memory: where lines may be longer than max_line_bytes, the buffer grows for one that
// is and shrinks after it. Before it waits for input it flushes the outputs given, so that the answer
// to a record is out before the next one is waited for, and bulk input still costs one write a buffer.
class LineReader {
  public:
    enum class Result { line, too_long, end, error, stopped };
    LineReader(int fd, Output* out, Output* err, size_t max_bytes = max_line_bytes);
    // line: without LF or CR LF; valid until the next call. too_long: the first part of the line; the rest is skipped.
    Result   next(std::string_view* line);
    uint64_t number() const { return number_; } // of the line returned last, from 1
    int      error() const { return error_; }

  private:
    bool                    make_room();
    bool                    fill(Result* why);
    int                     fd_;
    Output *                out_, *err_;
    size_t                  max_, capacity_;
    std::unique_ptr<char[]> buffer_;
    size_t                  begin_ = 0, seen_ = 0, end_ = 0; // seen_: no newline before it
    uint64_t                number_ = 0;
    bool                    skip_ = false, at_end_ = false;
    int                     error_ = 0;
};

// ---- Files

// Reads a regular file of at most `cap` bytes. done, or io_error with its message.
int read_file(const char* verb, const char* path, size_t cap, std::string* out);
int read_file(const char* path, size_t cap, std::string* out, std::string* why); // the message without its beginning
// Writes a file so that its name holds either the old content or all of the new: a temporary file beside it, synced,
// closed and renamed. done, or io_error with its message.
int save_file(const char* verb, const char* path, std::string_view content);

bool same_file(const char* a, const char* b); // by name, or by what the names lead to

// A mapped safetensors file and its index.
struct Container {
    ssm::Blob                        blob;
    ssm::Index                       index;
    std::unique_ptr<unsigned char[]> index_memory;
    Container() = default;
    ~Container() { ssm::unmap_file(&blob); }
    Container(const Container&) = delete;
    Container& operator=(const Container&) = delete;
    bool       metadata(const char* key, std::string* value) const; // unescaped; false if the key is not there
};
int open_container(const char* verb, const char* path, Container* out);

// A model ready to run, with room in its arena for `n_states` states and one scratch of `batch` rows.
struct OpenModel : Container {
    ssm::Config                      config;
    std::unique_ptr<unsigned char[]> memory;
    ssm::Arena                       arena;
    ssm::Model                       model;
};
int open_model(const char* verb, const char* path, ssm::Isa isa, int32_t n_states, int32_t batch, OpenModel* out);
// The same from a container that is open already (a golden file on several back-ends).
int open_model(const char* verb, const char* path, const Container& file, ssm::Isa isa, int32_t n_states, int32_t batch,
               OpenModel* out);

std::vector<ssm::Isa> back_ends();                              // of this build and this CPU
std::string           unescape(const char* text, size_t bytes); // JSON string content to bytes
bool                  terminal(int fd);

} // namespace tool
#endif
