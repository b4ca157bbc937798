// train_settings.hpp - the settings of a training run, and how they are read from a text file.
// SPDX-License-Identifier: MIT
//
// One `key = value` a line; `#` begins a comment. Every key has a default; tools/train/*.cfg are examples.

#ifndef TRAIN_SETTINGS_HPP
#define TRAIN_SETTINGS_HPP

#include "s4d_net.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace train {

constexpr int qat_widths[] = {0, 8, 4}; // bits, of the words off, i8, i4

struct Settings {
    std::string task = "classify"; // classify, regress, next, relevance, sound
    std::string data;              // a folder, or synthetic:NAME
    s4d::Config net;               // d_input and d_output come from the data
    s4d::Init   init = s4d::Init::lin;
    double      dt_min = 0.001;
    double      dt_max = 0.1;
    double      dropout = 0;
    double      smoothing = 0; // of labels
    double      lr = 0.01;
    double      lr_ssm = 0.001;      // for log_dt, log_A_real, A_imag
    double      weight_decay = 0.01; // of matrices and C, times the learning rate
    double      beta1 = 0.9, beta2 = 0.999;
    double      epochs = 1; // used if steps is 0
    int64_t     steps = 0;
    int64_t     batch = 32;    // examples of a step
    int64_t     warmup = 0;    // steps in which the learning rate climbs to lr
    double      lr_floor = 0;  // the cosine ends at this part of lr
    double      grad_clip = 0; // limit of the global norm of the gradient; 0: none
    double      ema = 0;       // decay of the mean of the weights that is saved and measured; 0: none
    int64_t     seed = 1;
    int64_t     threads = 0;        // 0: all cores
    int64_t     chunk = 32;         // rows between stored states
    int64_t     truncate = 0;       // events the gradient flows back through; 0: all
    double      validate = 0.1;     // examples kept for validation: a part if below 1, else a number; the last ones
    int64_t     validate_every = 0; // steps; 0: once an epoch
    int64_t     limit = 0;          // training examples used; 0: all
    std::string from;               // a model of the same shape to start from
    int         qat_bits = 0;       // 8, 4: see train_qat.hpp; 0: none
    int         act_bits = 8;       // of what enters a projection, with qat
    std::string checkpoint, plot, out;
    int64_t     checkpoint_every = 0;                // steps; 0: once an epoch
    std::map<std::string, std::string> task_options; // keys `next.*`, `relevance.*`, `sound.*`

    // Every setting as text, by key. What changes neither the result nor its bits is left out.
    std::map<std::string, std::string> text;
};

struct Key {
    const char*                                               name;
    bool                                                      shapes_result;
    std::function<const char*(Settings&, const std::string&)> set; // null, or what is expected
};

inline bool read_number(const std::string& s, double* out) {
    if (s.empty() || s.find_first_not_of("0123456789+-.eE") != std::string::npos) return false;
    char* end = nullptr;
    errno = 0;
    const double v = std::strtod(s.c_str(), &end);
    if (*end != '\0' || errno == ERANGE || !std::isfinite(v)) return false;
    *out = v;
    return true;
}

inline const std::vector<Key>& keys() {
    typedef Settings           S;
    typedef const std::string& T;
    // A number within limits, whole or not; a word out of a list; any text.
    const auto whole = [](auto place, double low, double high, const char* expected) {
        return [=](S& s, T v) -> const char* {
            double x = 0;
            if (!read_number(v, &x) || x != std::floor(x) || x < low || x > high) return expected;
            place(s, x);
            return nullptr;
        };
    };
    const auto number = [](double S::*place, double low, double high, const char* expected) {
        return [=](S& s, T v) -> const char* {
            double x = 0;
            if (!read_number(v, &x) || x < low || x > high) return expected;
            s.*place = x;
            return nullptr;
        };
    };
    const auto words = [](std::vector<std::string> list, auto place, const char* expected) {
        return [=](S& s, T v) -> const char* {
            for (size_t i = 0; i < list.size(); ++i)
                if (list[i] == v) {
                    place(s, int(i));
                    return nullptr;
                }
            return expected;
        };
    };
    const auto text = [](std::string S::*place) {
        return [=](S& s, T v) -> const char* {
            s.*place = v;
            return nullptr;
        };
    };
    const auto count = [&](int64_t S::*place, double low, double high, const char* expected) {
        return whole([=](S& s, double x) { s.*place = int64_t(x); }, low, high, expected);
    };
    const auto size = [&](int s4d::Config::*place, double high, const char* expected) {
        return whole([=](S& s, double x) { s.net.*place = int(x); }, 1, high, expected);
    };
    static const std::vector<Key> all = {
        {"task", true,
         [](S& s, T v) -> const char* {
             if (v != "classify" && v != "regress" && v != "next" && v != "relevance" && v != "sound")
                 return "classify, regress, next, relevance, sound, parity, modular or brackets";
             s.task = v;
             return nullptr;
         }},
        {"data", true, text(&S::data)},
        {"d_model", true, size(&s4d::Config::d_model, 16384, "a whole number from 1 to 16384")},
        {"d_state", true,
         [](S& s, T v) -> const char* {
             double x = 0;
             if (!read_number(v, &x) || x != std::floor(x) || x < 2 || x > 512 || std::fmod(x, 2) != 0)
                 return "an even number from 2 to 512";
             s.net.d_state = int(x);
             return nullptr;
         }},
        {"n_layers", true, size(&s4d::Config::n_layers, 256, "a whole number from 1 to 256")},
        {"disc", true,
         words(
             {"zoh", "bilinear"}, [](S& s, int i) { s.net.disc = s4d::Disc(i); }, "zoh or bilinear")},
        {"prenorm", true,
         words(
             {"false", "true"}, [](S& s, int i) { s.net.prenorm = i == 1; }, "true or false")},
        {"pool", true,
         words(
             {"mean", "last", "none"}, [](S& s, int i) { s.net.pool = s4d::Pool(i); }, "mean, last or none")},
        {"clip", true,
         [](S& s, T v) -> const char* {
             double x = 0;
             if (!read_number(v, &x) || x < 0 || x > 1e9) return "a number from 0 (off) to 1e9";
             s.net.clip = x;
             return nullptr;
         }},
        {"init", true,
         words(
             {"lin", "inv", "legs", "real"}, [](S& s, int i) { s.init = s4d::Init(i); }, "lin, inv, legs or real")},
        {"dt_min", true, number(&S::dt_min, 1e-9, 1e3, "a number from 1e-9 to 1000")},
        {"dt_max", true, number(&S::dt_max, 1e-9, 1e3, "a number from 1e-9 to 1000")},
        {"dropout", true, number(&S::dropout, 0, 0.95, "a number from 0 to 0.95")},
        {"label_smoothing", true, number(&S::smoothing, 0, 0.95, "a number from 0 to 0.95")},
        {"lr", true, number(&S::lr, 0, 10, "a number from 0 to 10")},
        {"lr_ssm", true, number(&S::lr_ssm, 0, 10, "a number from 0 to 10")},
        {"weight_decay", true, number(&S::weight_decay, 0, 100, "a number from 0 to 100")},
        {"beta1", true, number(&S::beta1, 0, 0.99999, "a number from 0 to 0.99999")},
        {"beta2", true, number(&S::beta2, 0, 0.999999, "a number from 0 to 0.999999")},
        {"epochs", true, number(&S::epochs, 0, 1e6, "a number from 0 to 1e6")},
        {"steps", true, count(&S::steps, 0, 1e9, "a whole number from 0 (use epochs) to 1e9")},
        {"batch", true, count(&S::batch, 1, 1e6, "a whole number from 1 to 1e6")},
        {"warmup", true, count(&S::warmup, 0, 1e9, "a whole number of steps")},
        {"lr_floor", true, number(&S::lr_floor, 0, 1, "a number from 0 to 1")},
        {"grad_clip", true, number(&S::grad_clip, 0, 1e9, "a number from 0 (off) to 1e9")},
        {"ema", true, number(&S::ema, 0, 0.999999, "a number from 0 (off) to 0.999999")},
        {"seed", true, count(&S::seed, 0, 9e15, "a whole number from 0 to 9e15")},
        {"threads", false, count(&S::threads, 0, 1024, "a whole number from 0 (all cores) to 1024")},
        {"chunk", true, count(&S::chunk, 1, 1e6, "a whole number from 1 to 1e6")},
        {"truncate", true, count(&S::truncate, 0, 1e9, "a whole number of events, 0 for all")},
        {"validate", true, number(&S::validate, 0, 1e9, "a part below 1, or a number of examples")},
        {"validate_every", true, count(&S::validate_every, 0, 1e9, "a whole number of steps, 0 for once an epoch")},
        {"limit", true, count(&S::limit, 0, 1e9, "a whole number of examples, 0 for all")},
        {"from", true, text(&S::from)},
        {"qat", true,
         words(
             {"off", "i8", "i4"}, [](S& s, int i) { s.qat_bits = qat_widths[i]; }, "off, i8 or i4")},
        {"act_bits", true,
         words(
             {"8", "16"}, [](S& s, int i) { s.act_bits = i == 0 ? 8 : 16; }, "8 or 16")},
        {"checkpoint", false, text(&S::checkpoint)},
        {"checkpoint_every", false,
         count(&S::checkpoint_every, 0, 1e9, "a whole number of steps, 0 for once an epoch")},
        {"plot", false, text(&S::plot)},
        {"out", false, text(&S::out)},
    };
    return all;
}

// Text from outside in a message: no control characters, not too long.
inline std::string shown(const std::string& s) {
    std::string out;
    for (char c : s) {
        if (out.size() > 80) return out + "...";
        char code[8];
        if (static_cast<unsigned char>(c) < 32 || c == 127) {
            std::snprintf(code, sizeof code, "\\x%02x", unsigned(static_cast<unsigned char>(c)));
            out += code;
        } else {
            out += c;
        }
    }
    return out;
}

// `key = value` in its two parts. False and what is wrong in `error`.
inline bool split_setting(const std::string& line, std::string* key, std::string* value, std::string* error) {
    const auto trim = [](std::string t) {
        while (!t.empty() && (t.back() == ' ' || t.back() == '\t' || t.back() == '\r')) t.pop_back();
        return t.substr(std::min(t.size(), t.find_first_not_of(" \t")));
    };
    const size_t equals = line.find('=');
    if (equals == std::string::npos) {
        *error = "expected key = value, found \"" + shown(line) + "\"";
        return false;
    }
    *key = trim(line.substr(0, equals)), *value = trim(line.substr(equals + 1));
    return true;
}

// Keys that belong to a task, `next.*`, `relevance.*` and `sound.*`; the task knows which there are.
inline bool is_task_option(const std::string& key) {
    for (const std::string prefix : {"next.", "relevance.", "sound."})
        if (key.size() > prefix.size() && key.compare(0, prefix.size(), prefix) == 0) return true;
    return false;
}

// Takes one `key = value`. False and what is wrong in `error`.
inline bool take_setting(Settings& s, const std::string& line, std::string* error) {
    std::string key, value;
    if (!split_setting(line, &key, &value, error)) return false;
    if (is_task_option(key)) {
        s.task_options[key] = value;
        s.text[key] = value;
        return true;
    }
    for (const Key& k : keys())
        if (key == k.name) {
            if (const char* expected = k.set(s, value)) {
                *error = "key \"" + key + "\": found \"" + shown(value) + "\", expected " + expected;
                return false;
            }
            if (k.shapes_result) s.text[key] = value;
            return true;
        }
    *error = "unknown key \"" + shown(key) + "\"";
    return false;
}

// Reads any settings that have a take_setting() beside them.
// `unreadable`, if wanted: whether it was the file that could not be read, not what it says.
template <class AnySettings>
bool read_settings(const std::string& path, AnySettings& s, std::string* error, bool* unreadable = nullptr) {
    if (unreadable != nullptr) *unreadable = true;
    errno = 0;
    std::ifstream in(path);
    if (!in) {
        *error = shown(path) + ": " + (errno != 0 ? std::strerror(errno) : "cannot open");
        return false;
    }
    std::map<std::string, int> seen;
    std::string                line;
    for (int number = 1; std::getline(in, line); ++number) {
        line = line.substr(0, line.find('#'));
        if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
        std::string       why;
        const size_t      end = line.find_first_of(" \t=", line.find_first_not_of(" \t"));
        const std::string key = line.substr(line.find_first_not_of(" \t"), end - line.find_first_not_of(" \t"));
        if (!take_setting(s, line, &why)) {
        } else if (seen.count(key) != 0) {
            why = "key \"" + key + "\" again; it stands on line " + std::to_string(seen[key]) + " already";
        }
        seen[key] = number;
        if (!why.empty()) {
            *error = shown(path) + ": line " + std::to_string(number) + ": " + why;
            if (unreadable != nullptr) *unreadable = false;
            return false;
        }
    }
    if (in.bad()) {
        *error = shown(path) + ": " + (errno != 0 ? std::strerror(errno) : "cannot read");
        return false;
    }
    return true;
}

} // namespace train

#endif
