// tool.cpp - what the verbs of the program share: options, errors in one line, input, output, models, files.
// SPDX-License-Identifier: MIT
#include "tool.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tool {

// ---- Text

size_t utf8_sequence(std::string_view text, size_t i, uint32_t* point) {
    const auto     byte = [&](size_t k) { return static_cast<unsigned char>(text[k]); };
    const uint32_t b = byte(i);
    if (b < 0x80) return *point = b, 1;
    const size_t n = b >= 0xc2 && b < 0xe0 ? 2 : b >= 0xe0 && b < 0xf0 ? 3 : b >= 0xf0 && b < 0xf5 ? 4 : 0;
    if (n == 0 || text.size() - i < n) return 0;
    uint32_t u = b & (0x7fu >> n);
    for (size_t k = 1; k < n; ++k) {
        if ((byte(i + k) & 0xc0) != 0x80) return 0;
        u = u << 6 | (byte(i + k) & 0x3fu);
    }
    if ((n == 3 && u < 0x800) || (n == 4 && u < 0x10000) || u > 0x10ffff || (u >= 0xd800 && u < 0xe000)) return 0;
    return *point = u, n;
}

namespace {

// Code points that show nothing themselves but change how a terminal shows the rest.
bool invisible(uint32_t u) {
    return (u >= 0x80 && u < 0xa0) || u == 0xad || u == 0x61c || (u >= 0x200b && u <= 0x200f) ||
           (u >= 0x2028 && u <= 0x202e) || (u >= 0x2060 && u <= 0x206f) || u == 0xfeff ||
           (u >= 0xfff9 && u <= 0xfffb) || (u >= 0xe0000 && u <= 0xe0fff);
}
} // namespace

std::string escape(std::string_view text, size_t cap, std::string_view plain) {
    std::string out;
    size_t      fits = 0; // bytes of `out` that leave room for the mark of a cut
    for (size_t i = 0; i < text.size();) {
        char           piece[16];
        uint32_t       u = 0;
        const size_t   n = utf8_sequence(text, i, &u);
        const unsigned b = static_cast<unsigned char>(text[i]);
        if (n == 0 || (n == 1 && (b < 0x20 || b == 0x7f || b == '"' || b == '\'' || b == '\\') &&
                       (plain.find(text[i]) == plain.npos))) {
            std::snprintf(piece, sizeof piece, "\\x%02x", b);
            out += piece;
            i += 1;
        } else if (n > 1 && invisible(u)) {
            std::snprintf(piece, sizeof piece, "\\u{%x}", static_cast<unsigned>(u));
            out += piece;
            i += n;
        } else {
            out.append(text.substr(i, n));
            i += n;
        }
        if (out.size() + 3 <= cap) fits = out.size();
        if (out.size() > cap) {
            out.resize(fits);
            return out += "...";
        }
    }
    return out;
}

void append_float(std::string* out, float v) {
    char      text[32];
    const int n = std::isnan(v) ? std::snprintf(text, sizeof text, "nan") // whose sign processors make differently
                                : std::snprintf(text, sizeof text, "%.9g", static_cast<double>(v));
    out->append(text, size_t(n));
}
void append_json_float(std::string* out, float v) {
    if (std::isfinite(v)) append_float(out, v);
    else *out += "null";
}
void append_json_string(std::string* out, std::string_view text) {
    *out += '"';
    for (char c : text) {
        const unsigned b = static_cast<unsigned char>(c);
        if (c == '"' || c == '\\') *out += '\\', *out += c;
        else if (b < 0x20 || b == 0x7f) {
            char piece[8];
            std::snprintf(piece, sizeof piece, "\\u%04x", b);
            *out += piece;
        } else *out += c;
    }
    *out += '"';
}
std::string unescape(const char* text, size_t bytes) {
    std::string out(bytes, '\0'); // unescaping never makes text longer
    out.resize(ssm::json::unescape({ssm::json::Kind::string, text, bytes}, out.data(), out.size()));
    return out;
}

std::string quoted_path(const std::string& path) { return escape(path, 160); }
std::string quoted(std::string_view text) { return "\"" + escape(text) + "\""; }

// ---- Errors

void complain(const char* verb, const std::string& what) {
    std::string line = verb[0] != 0 ? std::string("ssm ") + verb + ": " + what : "ssm: " + what;
    if (line.size() > max_message_bytes - 1) {
        size_t cut = max_message_bytes - 4;
        while (cut > 0 && (static_cast<unsigned char>(line[cut]) & 0xc0) == 0x80) --cut; // not inside a character
        line.resize(cut);
        line += "...";
    }
    line += '\n';
    Output(2).write(line);
}
int fail(int status, const char* verb, const std::string& what) {
    complain(verb, what);
    return status;
}
std::string system_error(int number) { return std::strerror(number); }

std::string describe(ssm::Status s, const ssm::Fault& fault) {
    std::string out;
    if (fault.name[0] != 0) {
        const bool metadata =
            s == ssm::Status::bad_config || std::string_view(fault.detail).find("metadata") != std::string_view::npos;
        out += metadata ? "metadata \"" : "tensor \"";
        out += escape(fault.name, max_name_bytes, "\\") + "\": "; // as in the file: its escapes are escapes already
    }
    if (fault.found[0] != 0) out += escape(fault.found, sizeof fault.found, "\\\"") + ": ";
    std::string detail = fault.detail[0] != 0 ? fault.detail : ssm::message(s);
    if (!fault.has_numbers) return out + detail + (fault.got > 0 ? " at byte " + std::to_string(fault.got) : "");
    // Three sentences announce what their number is; all others compare two.
    const auto ends = [&](const char* with) {
        const size_t n = std::strlen(with);
        if (detail.size() < n || detail.compare(detail.size() - n, n, with) != 0) return false;
        detail.resize(detail.size() - n);
        return true;
    };
    if (ends(", at the index given")) return out + detail + " at index " + std::to_string(fault.got);
    if (ends("; number of missing tensors given"))
        return out + detail + ", " + std::to_string(fault.got) + " missing in all";
    if (ends("; number of such tensors given"))
        return out + detail + ", " + std::to_string(fault.got) + " such tensors in all";
    return out + detail + ": expected " + std::to_string(fault.want) + ", got " + std::to_string(fault.got);
}

// ---- Options

Options& Options::flag(const char* name, bool* out) {
    return options_.push_back({Kind::flag, name, out, 0, 0, 0, 0}), *this;
}
Options& Options::text(const char* name, const char** out) {
    return options_.push_back({Kind::text, name, out, 0, 0, 0, 0}), *this;
}
Options& Options::word(const char* name, const char** out, std::vector<const char*> words) {
    return options_.push_back({Kind::word, name, out, 0, 0, 0, 0, std::move(words)}), *this;
}
Options& Options::list(const char* name, std::vector<const char*>* out) {
    return options_.push_back({Kind::list, name, out, 0, 0, 0, 0}), *this;
}
Options& Options::integer(const char* name, int64_t* out, int64_t low, int64_t high) {
    return options_.push_back({Kind::integer, name, out, low, high, 0, 0}), *this;
}
Options& Options::number(const char* name, double* out, double low, double high) {
    return options_.push_back({Kind::number, name, out, 0, 0, low, high}), *this;
}
Options& Options::isa(ssm::Isa* out) { return options_.push_back({Kind::isa, "--isa", out, 0, 0, 0, 0}), *this; }

int Options::take(const Option& o, const char* value) {
    const std::string given = std::string(o.name) + ": got \"" + escape(value) + "\", expected ";
    switch (o.kind) {
    case Kind::flag:
        *static_cast<bool*>(o.out) = true;
        return go_on;
    case Kind::text:
        *static_cast<const char**>(o.out) = value;
        return go_on;
    case Kind::word: {
        std::string all;
        for (const char* w : o.words) {
            if (std::strcmp(w, value) == 0) return *static_cast<const char**>(o.out) = value, go_on;
            all += (all.empty() ? "" : w == o.words.back() ? " or " : ", ") + std::string(w);
        }
        return fail(bad_usage, verb_, given + all);
    }
    case Kind::list:
        static_cast<std::vector<const char*>*>(o.out)->push_back(value);
        return go_on;
    case Kind::integer: {
        int64_t     v = 0;
        const char* p = value;
        const bool  negative = *p == '-';
        if (negative) ++p;
        bool good = *p != 0;
        for (; *p != 0 && good; ++p) {
            good = *p >= '0' && *p <= '9' && v <= (INT64_MAX - (*p - '0')) / 10;
            if (good) v = v * 10 + (*p - '0');
        }
        if (negative) v = -v;
        if (!good || v < o.low || v > o.high)
            return fail(bad_usage, verb_,
                        given + "a whole number from " + std::to_string(o.low) + " to " + std::to_string(o.high));
        *static_cast<int64_t*>(o.out) = v;
        return go_on;
    }
    case Kind::number: {
        float        v = 0;
        const size_t n = std::strlen(value);
        char         range[80];
        std::snprintf(range, sizeof range, "a number from %g to %g", o.least, o.most);
        if (n == 0 || ssm::parse_float(value, n, &v) != n || !(double(v) >= o.least && double(v) <= o.most))
            return fail(bad_usage, verb_, given + range);
        *static_cast<double*>(o.out) = double(v);
        return go_on;
    }
    case Kind::isa: {
        std::string names;
        for (int i = 0; ssm::isa_name(ssm::Isa(i)) != nullptr; ++i) {
            if (std::strcmp(ssm::isa_name(ssm::Isa(i)), value) == 0) {
                if (!ssm::isa_runs_here(ssm::Isa(i)))
                    return fail(bad_usage, verb_,
                                std::string("--isa: ") + value + " is not in this build or not on this CPU");
                *static_cast<ssm::Isa*>(o.out) = ssm::Isa(i);
                return go_on;
            }
            names += (names.empty() ? "" : ", ") + std::string(ssm::isa_name(ssm::Isa(i)));
        }
        return fail(bad_usage, verb_, given + "one of " + names);
    }
    }
    return go_on;
}

int Options::read(int argc, char** argv, size_t min_operands, size_t max_operands) {
    bool options = true;
    for (int i = 0; i < argc; ++i) {
        const char* arg = argv[i];
        if (!options || arg[0] != '-' || arg[1] == 0) {
            operands.push_back(arg);
            continue;
        }
        if (std::strcmp(arg, "--") == 0) {
            options = false;
            continue;
        }
        if (std::strcmp(arg, "--help") == 0 || std::strcmp(arg, "-h") == 0) {
            Output out(1);
            out.write(help_);
            return finish(verb_, &out);
        }
        const char*   equals = std::strchr(arg, '=');
        const size_t  length = equals != nullptr ? size_t(equals - arg) : std::strlen(arg);
        const Option* found = nullptr;
        for (const Option& o : options_)
            if (std::strlen(o.name) == length && std::memcmp(o.name, arg, length) == 0) found = &o;
        const std::string name = escape(std::string_view(arg, length));
        if (found == nullptr && lenient_) continue;
        if (found == nullptr)
            return fail(bad_usage, verb_, "unknown option \"" + name + "\"; see ssm " + verb_ + " --help");
        const char* value = "";
        if (found->kind == Kind::flag) {
            if (equals != nullptr) return fail(bad_usage, verb_, name + " takes no value");
        } else if (equals != nullptr) value = equals + 1;
        else if (i + 1 < argc) value = argv[++i];
        else return fail(bad_usage, verb_, name + " needs a value");
        const int status = take(*found, value);
        if (status != go_on) return status;
    }
    if (operands.size() < min_operands)
        return fail(bad_usage, verb_,
                    "expected " + std::to_string(min_operands) + (min_operands == 1 ? " file" : " operands") +
                        ", got " + std::to_string(operands.size()) + "; see ssm " + verb_ + " --help");
    if (operands.size() > max_operands)
        return fail(bad_usage, verb_,
                    "unexpected operand \"" + escape(operands[max_operands]) + "\"; see ssm " + verb_ + " --help");
    return go_on;
}

// ---- Output and input

namespace {
volatile std::sig_atomic_t stop_flag = 0;
int                        stop_pipe[2] = {-1, -1};

extern "C" void on_stop(int) {
    const int  kept = errno;
    const char byte = 0;
    stop_flag = 1;
    if (::write(stop_pipe[1], &byte, 1) < 0) {
    } // full: a wake-up is on its way already
    errno = kept;
}
} // namespace

bool stopped() { return stop_flag != 0; }
bool catch_signals() {
    if (::pipe(stop_pipe) != 0) return false;
    for (int fd : stop_pipe)
        if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || ::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) return false;
    struct sigaction action = {};
    action.sa_handler = on_stop;
    action.sa_flags = int(SA_RESETHAND); // a second signal ends the program at once
    return ::sigaction(SIGINT, &action, nullptr) == 0 && ::sigaction(SIGTERM, &action, nullptr) == 0;
}

void Output::write(std::string_view text) {
    if (error_ != 0) return;
    buffer_.append(text);
    if (fd_ >= 0 && buffer_.size() >= size_t(1) << 16) flush();
}
bool Output::flush() {
    if (fd_ < 0) return true;
    for (size_t at = 0; at < buffer_.size() && error_ == 0;) {
        const ssize_t n = ::write(fd_, buffer_.data() + at, buffer_.size() - at);
        if (n > 0) at += size_t(n);
        else if (n < 0 && errno == EINTR && stopped()) error_ = EPIPE; // told to stop while the reader does not read
        else if (n < 0 && errno == EINTR) continue;
        else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            pollfd p[2] = {{fd_, POLLOUT, 0}, {stop_pipe[0], POLLIN, 0}};
            ::poll(p, 2, -1);
            if (stopped()) error_ = EPIPE;
        } else error_ = n < 0 ? errno : EIO;
    }
    buffer_.clear();
    return error_ == 0;
}
int finish(const char* verb, Output* out) {
    if (out->flush()) return done;
    if (out->error() != EPIPE) complain(verb, "standard output: " + system_error(out->error()));
    return io_error;
}

long read_some(int fd, void* to, size_t bytes) {
    for (;;) {
        if (stopped()) return -2;
        if (stop_pipe[0] >= 0) { // wait on both, so that a signal just before read() is not lost
            pollfd p[2] = {{fd, POLLIN, 0}, {stop_pipe[0], POLLIN, 0}};
            if (::poll(p, 2, -1) < 0 && errno != EINTR) return -1;
            if (stopped()) return -2;
        }
        const ssize_t n = ::read(fd, to, bytes);
        if (n >= 0) return long(n);
        if (errno == EINTR) continue;
        if (errno != EAGAIN && errno != EWOULDBLOCK) return -1;
        pollfd p = {fd, POLLIN, 0};
        if (stop_pipe[0] < 0 && ::poll(&p, 1, -1) < 0 && errno != EINTR) return -1;
    }
}

namespace {
constexpr size_t read_bytes = size_t(1) << 16;
}
LineReader::LineReader(int fd, Output* out, Output* err, size_t max_bytes)
    : fd_(fd), out_(out), err_(err), max_(max_bytes), capacity_(std::min(max_bytes, max_line_bytes) + 2 + read_bytes),
      buffer_(new char[capacity_]()) {} // + CR LF; touched, so that memory does not grow later

// Moves what is there to the front of the buffer, or of a larger or smaller one where that is called for. False: there
// is no memory for it.
bool LineReader::make_room() {
    const size_t used = end_ - begin_, first = std::min(max_, max_line_bytes) + 2 + read_bytes;
    size_t       wanted = capacity_;
    if (capacity_ > 4 * first && used < first / 2) wanted = first; // an outsized line is over
    else if (capacity_ - used < read_bytes) wanted = std::min(2 * capacity_, max_ + 2 + read_bytes);
    if (wanted == capacity_) {
        if (begin_ > 0) std::memmove(buffer_.get(), buffer_.get() + begin_, used);
    } else {
        std::unique_ptr<char[]> other(new (std::nothrow) char[wanted]);
        if (other == nullptr) return false;
        std::memcpy(other.get(), buffer_.get() + begin_, used);
        buffer_ = std::move(other);
        capacity_ = wanted;
    }
    end_ -= begin_, seen_ -= begin_, begin_ = 0;
    return true;
}

// More input behind end_. False: none, and why.
bool LineReader::fill(Result* why) {
    if (at_end_) return *why = Result::end, false;
    if (!make_room()) return *why = Result::too_long, false;
    const bool written = out_->flush();
    if (err_ != nullptr) err_->flush();
    if (!written) return *why = Result::stopped, false; // nobody reads the answers
    const long n = read_some(fd_, buffer_.get() + end_, read_bytes);
    if (n > 0) return end_ += size_t(n), true;
    if (n == -2) return *why = Result::stopped, false;
    if (n < 0) return error_ = errno, *why = Result::error, false;
    at_end_ = true;
    return *why = Result::end, false;
}

LineReader::Result LineReader::next(std::string_view* line) {
    Result why = Result::end;
    if (stopped()) return Result::stopped;
    for (;;) {
        const char* text = buffer_.get();
        const void* at = std::memchr(text + seen_, '\n', end_ - seen_);
        if (at != nullptr) {
            const size_t newline = size_t(static_cast<const char*>(at) - text), begin = begin_;
            begin_ = seen_ = newline + 1;
            if (skip_) { // the end of a line already reported
                skip_ = false;
                continue;
            }
            size_t n = newline - begin;
            if (n > 0 && text[newline - 1] == '\r') --n;
            ++number_;
            *line = std::string_view(text + begin, n);
            return n > max_ ? Result::too_long : Result::line;
        }
        seen_ = end_;
        if (skip_) begin_ = seen_ = end_ = 0;
        const bool over = end_ - begin_ > max_ + 1; // + 1: the last byte may be the CR of a line end
        if (!over && fill(&why)) continue;
        if (over || why == Result::too_long) {
            skip_ = true;
            ++number_;
            *line = std::string_view(buffer_.get() + begin_, std::min(end_ - begin_, max_));
            begin_ = seen_ = end_;
            return Result::too_long;
        }
        if (why == Result::end && end_ > begin_ && !skip_) { // the last line lacks its newline
            size_t n = end_ - begin_;
            *line = std::string_view(buffer_.get() + begin_, n);
            begin_ = seen_ = end_;
            if (line->back() == '\r') line->remove_suffix(1);
            ++number_;
            return line->size() > max_ ? Result::too_long : Result::line;
        }
        return why;
    }
}

// ---- Files

bool same_file(const char* a, const char* b) {
    struct stat x, y;
    if (std::strcmp(a, b) == 0) return true;
    return ::stat(a, &x) == 0 && ::stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

namespace {
// Why a path cannot be mapped: map_file() only says that it cannot.
int why_not_mapped(const char* verb, const char* path) {
    struct stat info;
    if (::stat(path, &info) != 0) return fail(io_error, verb, quoted_path(path) + ": " + system_error(errno));
    if (S_ISDIR(info.st_mode)) return fail(io_error, verb, quoted_path(path) + ": is a directory, expected a file");
    if (!S_ISREG(info.st_mode)) return fail(io_error, verb, quoted_path(path) + ": is not a regular file");
    if (info.st_size == 0) return fail(bad_file, verb, quoted_path(path) + ": is empty, expected a safetensors file");
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail(io_error, verb, quoted_path(path) + ": " + system_error(errno));
    ::close(fd);
    return fail(io_error, verb, quoted_path(path) + ": cannot be mapped");
}
int too_little_memory(const char* verb, const char* path, uint64_t bytes) {
    return fail(bad_file, verb,
                quoted_path(path) + ": not enough memory, " + std::to_string(bytes) + " bytes are needed");
}
} // namespace

int read_file(const char* path, size_t cap, std::string* out, std::string* why) {
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return *why = system_error(errno), io_error;
    struct stat info;
    int         status = done;
    if (::fstat(fd, &info) != 0) *why = system_error(errno), status = io_error;
    else if (!S_ISREG(info.st_mode)) *why = "is not a regular file", status = io_error;
    out->clear();
    char piece[1 << 14];
    while (status == done && out->size() <= cap) {
        const ssize_t n = ::read(fd, piece, sizeof piece);
        if (n == 0) break;
        if (n > 0) out->append(piece, size_t(n));
        else if (errno != EINTR) *why = system_error(errno), status = io_error;
    }
    ::close(fd);
    if (status == done && out->size() > cap)
        *why = "longer than the " + std::to_string(cap) + " bytes expected", status = bad_file;
    return status;
}

int read_file(const char* verb, const char* path, size_t cap, std::string* out) {
    std::string why;
    const int   status = read_file(path, cap, out, &why);
    return status == done ? done : fail(status, verb, quoted_path(path) + ": " + why);
}

int save_file(const char* verb, const char* path, std::string_view content) {
    const std::string target = path, temporary = target + ".tmp";
    const auto        no = [&](const char* what) {
        const int number = errno;
        return fail(io_error, verb, quoted_path(path) + ": " + what + ": " + system_error(number));
    };
    struct stat info;
    if (::stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return fail(io_error, verb, quoted_path(path) + ": is not a regular file, cannot be saved to");

    const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return no("cannot create the temporary file beside it");
    const char* what = nullptr;
    for (size_t at = 0; at < content.size() && what == nullptr;) {
        const ssize_t n = ::write(fd, content.data() + at, content.size() - at);
        if (n > 0) at += size_t(n);
        else if (n < 0 && errno == EINTR) continue;
        else {
            if (n == 0) errno = EIO;
            what = "cannot write";
        }
    }
    if (what == nullptr && ::fsync(fd) != 0) what = "cannot sync";
    if (what != nullptr) {
        const int number = errno;
        ::close(fd);
        ::unlink(temporary.c_str());
        errno = number;
        return no(what);
    }
    if (::close(fd) != 0) what = "cannot close";
    else if (::rename(temporary.c_str(), path) != 0) what = "cannot rename the temporary file";
    if (what != nullptr) {
        const int number = errno;
        ::unlink(temporary.c_str());
        errno = number;
        return no(what);
    }
    // The new name is only safe against a power cut once the folder is on the disk as well.
    const size_t      slash = target.rfind('/');
    const std::string folder = slash == target.npos ? "." : slash == 0 ? "/" : target.substr(0, slash);
    const int         dir = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir >= 0) {                                               // a folder may be writable but not readable
        const bool synced = ::fsync(dir) == 0 || errno == EINVAL; // EINVAL: this file system cannot
        const int  number = errno;
        ::close(dir);
        errno = number;
        if (!synced) return no("saved, but its folder cannot be synced");
    }
    return done;
}

bool Container::metadata(const char* key, std::string* value) const {
    const ssm::Entry* e = ssm::find_metadata(index, key);
    if (e == nullptr) return false;
    *value = unescape(e->value, size_t(e->value_len));
    return true;
}

int open_container(const char* verb, const char* path, Container* out) {
    if (ssm::map_file(&out->blob, path) != ssm::Status::ok) return why_not_mapped(verb, path);
    const size_t bytes = ssm::index_bytes(out->blob);
    out->index_memory.reset(new (std::nothrow) unsigned char[bytes + 1]);
    if (out->index_memory == nullptr) return too_little_memory(verb, path, bytes);
    ssm::Fault        fault;
    const ssm::Status s = ssm::read_index(&out->index, out->blob, out->index_memory.get(), bytes, &fault);
    if (s != ssm::Status::ok) return fail(bad_file, verb, quoted_path(path) + ": " + describe(s, fault));
    return done;
}

int open_model(const char* verb, const char* path, const Container& file, ssm::Isa isa, int32_t n_states, int32_t batch,
               OpenModel* out) {
    ssm::Fault   fault;
    const size_t index_bytes = ssm::index_bytes(file.blob);
    out->memory.reset(new (std::nothrow) unsigned char[index_bytes + 1]);
    if (out->memory == nullptr) return too_little_memory(verb, path, index_bytes);
    ssm::Status s = ssm::inspect(&out->config, file.blob, out->memory.get(), index_bytes, &fault);
    if (s != ssm::Status::ok) return fail(bad_file, verb, quoted_path(path) + ": " + describe(s, fault));

    // Not cleared and not touched before load() has compared every shape with the file: a small file cannot claim much.
    const size_t bytes = ssm::arena_bytes(out->config, n_states, batch);
    out->memory.reset(new (std::nothrow) unsigned char[bytes]);
    if (out->memory == nullptr) return too_little_memory(verb, path, bytes);
    out->arena = ssm::Arena{out->memory.get(), bytes, 0};
    ssm::LoadOptions options;
    options.isa = isa;
    s = ssm::load(&out->model, file.blob, &out->arena, options, &fault);
    if (s != ssm::Status::ok) return fail(bad_file, verb, quoted_path(path) + ": " + describe(s, fault));
    return done;
}
int open_model(const char* verb, const char* path, ssm::Isa isa, int32_t n_states, int32_t batch, OpenModel* out) {
    const int status = open_container(verb, path, out);
    return status != done ? status : open_model(verb, path, *out, isa, n_states, batch, out);
}

std::vector<ssm::Isa> back_ends() {
    std::vector<ssm::Isa> all;
    for (int i = 1; ssm::isa_name(ssm::Isa(i)) != nullptr; ++i)
        if (ssm::isa_runs_here(ssm::Isa(i))) all.push_back(ssm::Isa(i));
    return all;
}
bool terminal(int fd) { return ::isatty(fd) == 1; }

} // namespace tool
