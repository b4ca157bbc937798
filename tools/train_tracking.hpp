// train_tracking.hpp - state tracking with Mamba-3: tasks made up from a seed, a length curriculum.
// SPDX-License-Identifier: MIT
//
// Three tasks that need memory of the whole past: parity of bits, sums and products modulo 5, the same with brackets.
// Every step draws its sequences from (seed, step), so there is no data to load and a checkpoint needs no generator
// state. Training begins with short sequences; whenever the loss is near its floor they grow. If the loss then runs
// away, the guard goes back to where the length began and draws other sequences. At the full length a final stage
// lowers the learning rate.
//
// Bits: a batch is cut into groups of `group_size` sequences whose gradients are added in order, so that any number of
// threads gives the same bits, and so does a run that was interrupted and resumed.

#ifndef TRAIN_TRACKING_HPP
#define TRAIN_TRACKING_HPP

#include "mamba3_net.hpp"
#include "tool.hpp"
#include "train_run.hpp"
#include "train_snap.hpp"

namespace tracking {

using train::bad_file;
using train::bad_usage;
using train::done;
using train::io_error;
using train::shown;
using train::some_failed;

constexpr int64_t group_size = 8; // sequences; a part of the arithmetic, not of the machine
constexpr size_t  max_snapshots = 3;

// ---- Settings

enum class Task { parity, modular, brackets };
constexpr const char* task_names[] = {"parity", "modular", "brackets"};

struct Settings {
    Task           task = Task::parity;
    mamba3::Config net;               // vocab, d_output and rope_angles follow from the rest
    double         rope_fraction = 1; // of d_state; 0.5 or 1
    bool           rotation = true;   // false: the angles stay 0
    bool           end_only = false;  // targets at the last position alone
    double         dt_min = 0.1, dt_max = 1;
    int64_t        batch = 16;
    double         lr = 0.001, beta1 = 0.9, beta2 = 0.99, clip = 1, weight_decay = 1;
    int64_t        warmup = 50;
    double         smoothing = 0; // of the targets
    double         areg = 0;      // times mean log A
    double         treg = 0;      // times mean (t - round t)^2 in the final stage, t in half turns
    bool           pvar = false;
    bool           snap = false;     // in the end turns become exact half turns, see train_snap.hpp
    int64_t        snap_steps = 200; // and what reads them is trained for so many steps more
    int64_t        start_length = 8, max_length = 160, stage_steps = 20;
    double         growth = 1.25, threshold = 0.1; // the length grows when loss < its floor + threshold
    int64_t        final_steps = 800;
    double         final_lr = 0.02;                // the final stage ends at this part of lr
    bool           final_uniform = false;          // lengths of the final stage: all up to max_length
    double         spike = 0.2;                    // above the threshold for spike_steps: go back
    int64_t        spike_steps = 50, patience = 0; // patience: steps of a stage before going back; 0: for ever
    int64_t        steps = 20000, seed = 1;        // steps: at most so many in all
    int64_t        test_length = 256, test_count = 256;
    std::string    from;                       // a model of the same shape to start from
    int            qat_bits = 0, act_bits = 8; // 8, 4, see train_qat.hpp; what enters a projection, with qat
    int64_t        threads = 0, checkpoint_every = 0;
    std::string    checkpoint, plot, out;

    std::map<std::string, std::string> text; // by key, without those that change no bit of the result

    int classes() const { return task == Task::parity ? 2 : 5; }
    int vocabulary() const { return task == Task::parity ? 2 : task == Task::modular ? 8 : 10; }
    int layer_heads() const { return net.d_inner / net.headdim; }
};

struct Key {
    const char* name;
    bool        shapes_result;
    // Empty, or what is expected.
    std::function<std::string(Settings&, const std::string&)> set;
};

inline const std::vector<Key>& keys() {
    typedef Settings           S;
    typedef const std::string& T;
    const auto                 limits = [](const char* what, double low, double high) {
        char text[100];
        std::snprintf(text, sizeof text, "a %snumber from %g to %g", what, low, high);
        return std::string(text);
    };
    const auto whole = [=](auto place, double low, double high) {
        return [=](S& s, T v) {
            double x = 0;
            if (!train::read_number(v, &x) || x != std::floor(x) || x < low || x > high)
                return limits("whole ", low, high);
            place(s, x);
            return std::string();
        };
    };
    const auto number = [=](double S::*place, double low, double high) {
        return [=](S& s, T v) {
            double x = 0;
            if (!train::read_number(v, &x) || x < low || x > high) return limits("", low, high);
            s.*place = x;
            return std::string();
        };
    };
    const auto count = [=](int64_t S::*place, double low, double high) {
        return whole([=](S& s, double x) { s.*place = int64_t(x); }, low, high);
    };
    const auto size = [=](int mamba3::Config::*place, double low, double high) {
        return whole([=](S& s, double x) { s.net.*place = int(x); }, low, high);
    };
    const auto words = [](std::vector<std::string> list, auto place) {
        return [=](S& s, T v) {
            std::string expected;
            for (size_t i = 0; i < list.size(); ++i) {
                if (list[i] == v) {
                    place(s, int(i));
                    return std::string();
                }
                expected += (i == 0 ? "" : i + 1 == list.size() ? " or " : ", ") + list[i];
            }
            return expected;
        };
    };
    const auto flag = [=](bool S::*place) { return words({"off", "on"}, [=](S& s, int i) { s.*place = i == 1; }); };
    const auto text = [](std::string S::*place) {
        return [=](S& s, T v) {
            s.*place = v;
            return std::string();
        };
    };
    static const std::vector<Key> all = {
        {"task", true, words({task_names[0], task_names[1], task_names[2]}, [](S& s, int i) { s.task = Task(i); })},
        {"d_model", true, size(&mamba3::Config::d_model, 1, 1024)},
        {"n_layers", true, size(&mamba3::Config::n_layers, 1, 64)},
        {"d_inner", true, size(&mamba3::Config::d_inner, 1, 4096)},
        {"d_state", true, size(&mamba3::Config::d_state, 2, 256)},
        {"headdim", true, size(&mamba3::Config::headdim, 1, 1024)},
        {"ngroups", true, size(&mamba3::Config::ngroups, 1, 64)},
        {"mimo_rank", true,
         whole([](S& s, double x) { s.net.is_mimo = x > 0, s.net.mimo_rank = std::max(1, int(x)); }, 0, 8)},
        {"rope_fraction", true, words({"0.5", "1.0"}, [](S& s, int i) { s.rope_fraction = i == 1 ? 1 : 0.5; })},
        {"outproj_norm", true, words({"off", "on"}, [](S& s, int i) { s.net.is_outproj_norm = i == 1; })},
        {"mlp_hidden", true, size(&mamba3::Config::mlp_hidden, 0, 4096)},
        {"a_activation", true, words({"heavy_tail", "softplus"}, [](S& s, int i) { s.net.softplus_A = i == 1; })},
        {"a_floor", true,
         [=](S& s, T v) {
             double x = 0;
             if (!train::read_number(v, &x) || x < 0 || x > 1) return limits("", 0, 1);
             s.net.A_floor = x;
             return std::string();
         }},
        {"rotation", true, flag(&S::rotation)},
        {"targets", true, words({"all", "end"}, [](S& s, int i) { s.end_only = i == 1; })},
        {"dt_min", true, number(&S::dt_min, 1e-6, 20)},
        {"dt_max", true, number(&S::dt_max, 1e-6, 20)},
        {"batch", true, count(&S::batch, 1, 4096)},
        {"lr", true, number(&S::lr, 0, 10)},
        {"beta1", true, number(&S::beta1, 0, 0.99999)},
        {"beta2", true, number(&S::beta2, 0, 0.999999)},
        {"warmup", true, count(&S::warmup, 0, 1e9)},
        {"clip", true, number(&S::clip, 0, 1e9)},
        {"weight_decay", true, number(&S::weight_decay, 0, 100)},
        {"smoothing", true, number(&S::smoothing, 0, 0.95)},
        {"areg", true, number(&S::areg, 0, 100)},
        {"treg", true, number(&S::treg, 0, 1e6)},
        {"pvar", true, flag(&S::pvar)},
        {"snap", true, flag(&S::snap)},
        {"snap_steps", true, count(&S::snap_steps, 0, 1e9)},
        {"start_length", true, count(&S::start_length, 3, 4096)},
        {"growth", true, number(&S::growth, 1.01, 10)},
        {"max_length", true, count(&S::max_length, 3, 4096)},
        {"stage_steps", true, count(&S::stage_steps, 1, 1e6)},
        {"threshold", true, number(&S::threshold, 0, 10)},
        {"final_steps", true, count(&S::final_steps, 0, 1e9)},
        {"final_lr", true, number(&S::final_lr, 0, 1)},
        {"final_lengths", true, words({"longest", "uniform"}, [](S& s, int i) { s.final_uniform = i == 1; })},
        {"spike", true, number(&S::spike, 0, 1e9)},
        {"spike_steps", true, count(&S::spike_steps, 0, 1e9)},
        {"patience", true, count(&S::patience, 0, 1e9)},
        {"steps", true, count(&S::steps, 1, 1e9)},
        {"seed", true, count(&S::seed, 0, 9e15)},
        {"test_length", true, count(&S::test_length, 3, 1e6)},
        {"test_count", true, count(&S::test_count, 1, 1e6)},
        {"from", true, text(&S::from)},
        {"qat", true, words({"off", "i8", "i4"}, [](S& s, int i) { s.qat_bits = train::qat_widths[i]; })},
        {"act_bits", true, words({"8", "16"}, [](S& s, int i) { s.act_bits = i == 0 ? 8 : 16; })},
        {"threads", false, count(&S::threads, 0, 1024)},
        {"checkpoint", false, text(&S::checkpoint)},
        {"checkpoint_every", false, count(&S::checkpoint_every, 0, 1e9)},
        {"plot", false, text(&S::plot)},
        {"out", false, text(&S::out)},
    };
    return all;
}

// Takes one `key = value`. False and what is wrong in `error`.
inline bool take_setting(Settings& s, const std::string& line, std::string* error) {
    std::string key, value;
    if (!train::split_setting(line, &key, &value, error)) return false;
    for (const Key& k : keys())
        if (key == k.name) {
            const std::string expected = k.set(s, value);
            if (expected.empty()) {
                if (k.shapes_result) s.text[key] = value;
                return true;
            }
            *error = "key \"" + key + "\": found \"" + shown(value) + "\", expected " + expected;
            return false;
        }
    *error = "unknown key \"" + shown(key) + "\"";
    return false;
}

// What only all settings together show. Sets the sizes that follow from others.
inline bool complete(Settings& s, std::string* error) {
    mamba3::Config& c = s.net;
    c.vocab = s.vocabulary(), c.d_output = s.classes(), c.d_input = 0;
    c.rope_angles = int(c.d_state * s.rope_fraction) / 2;
    c.act_bits = s.qat_bits > 0 ? s.act_bits : 0;
    if (c.d_inner % c.headdim != 0) *error = "headdim does not divide d_inner";
    else if (c.d_inner / c.headdim % c.ngroups != 0) *error = "ngroups does not divide the number of heads";
    else if (c.rope_angles < 1 || (c.is_mimo && c.d_state % 2 != 0)) *error = "d_state does not fit the rotation";
    else if (s.dt_min > s.dt_max) *error = "dt_min is above dt_max";
    else if (s.start_length > s.max_length) *error = "start_length is above max_length";
    else if (s.snap && (c.n_layers != 1 || !c.softplus_A || c.vocab > c.d_model || !s.rotation))
        *error = "snap is for one layer with a softplus A and rotation";
    else if (s.snap && s.qat_bits > 0)
        *error = "snap goes without qat: `ssm quantize --snap` makes the turns of the integer model exact";
    return error->empty();
}

// ---- Tasks

// Sequences of one length, and what to say at each position; -1: nothing.
struct Drawn {
    int                  length = 0;
    int64_t              count = 0, n_targets = 0;
    std::vector<int32_t> tokens, targets; // [count][length]
};

constexpr int32_t plus = 5, minus = 6, times = 7, open = 8, close = 9; // tokens; 0 to 4 are digits

inline int32_t apply(int32_t op, int32_t a, int32_t b) { // modulo 5
    const int32_t v = op == plus ? a + b : op == minus ? a - b : a * b;
    return ((v % 5) + 5) % 5;
}

// The odd length that arithmetic without brackets makes of any other.
inline int64_t fitting(Task task, int64_t length) {
    return task == Task::modular && length % 2 == 0 ? length - 1 : length;
}

// Appends one expression of exactly `length` tokens and the target at each: the value of what ends there, a digit with
// its sign or a bracket. Returns the value of the whole.
inline int32_t draw_brackets(s4d::Random& random, int64_t length, std::vector<int32_t>& tokens,
                             std::vector<int32_t>& targets) {
    const auto put = [&](int32_t token, int32_t target) { tokens.push_back(token), targets.push_back(target); };
    if (length <= 4) { // d, -d, (d), (-d)
        const bool    bracket = length >= 3, sign = length % 2 == 0;
        const int32_t digit = int32_t(random.below(5)), value = sign ? apply(minus, 0, digit) : digit;
        if (bracket) put(open, -1);
        if (sign) put(minus, -1);
        put(digit, value);
        if (bracket) put(close, value);
        return value;
    }
    put(open, -1);
    const int64_t left = 1 + int64_t(random.below(uint64_t(length - 4)));
    const int32_t a = draw_brackets(random, left, tokens, targets);
    const int32_t op = plus + int32_t(random.below(3));
    put(op, -1);
    const int32_t value = apply(op, a, draw_brackets(random, length - 3 - left, tokens, targets));
    put(close, value);
    return value;
}

// Appends one sequence. `ones`: the probability of a 1 in parity.
inline void draw_sequence(Task task, s4d::Random& random, int64_t length, double ones, Drawn& d) {
    if (task == Task::parity) {
        int32_t sum = 0;
        for (int64_t t = 0; t < length; ++t) {
            const int32_t bit = random.uniform() < ones ? 1 : 0;
            sum ^= bit;
            d.tokens.push_back(bit), d.targets.push_back(sum);
        }
    } else if (task == Task::modular) {
        int32_t sum = 0, product = 0, op = plus; // the value so far is sum + product
        for (int64_t t = 0; t < length; ++t) {
            if (t % 2 == 1) {
                op = plus + int32_t(random.below(3));
                d.tokens.push_back(op), d.targets.push_back(-1);
                continue;
            }
            const int32_t digit = int32_t(random.below(5));
            if (op == times) product = apply(times, product, digit);
            else sum = apply(plus, sum, product), product = apply(op, 0, digit);
            d.tokens.push_back(digit), d.targets.push_back(apply(plus, sum, product));
        }
    } else {
        draw_brackets(random, length, d.tokens, d.targets);
    }
}

// `count` sequences of `length` tokens (arithmetic without brackets: one less if that is even). `pvar`: in half of the
// draws each sequence of bits has a density of its own.
inline void draw(Task task, s4d::Random& random, int64_t count, int64_t length, bool pvar, bool end_only, Drawn& d) {
    length = fitting(task, length);
    const bool varied = pvar && random.uniform() < 0.5;
    d.length = int(length), d.count = count, d.n_targets = 0;
    d.tokens.clear(), d.targets.clear();
    for (int64_t i = 0; i < count; ++i) draw_sequence(task, random, length, varied ? random.uniform() : 0.5, d);
    for (size_t i = 0; i < d.targets.size(); ++i) {
        if (end_only && (i + 1) % size_t(length) != 0) d.targets[i] = -1;
        if (d.targets[i] >= 0) ++d.n_targets;
    }
}

// ---- Loss

// The least a loss with smoothed targets can be.
inline double loss_floor(int classes, double smoothing) {
    if (smoothing <= 0) return 0;
    const double rest = smoothing / classes, most = 1 - smoothing + rest;
    return -(most * std::log(most) + (classes - 1) * rest * std::log(rest));
}

// Sum over the targets of `weight` times the cross-entropy, and its gradient. Positions without a target get 0.
inline double cross_entropy(const float* out, const int32_t* targets, int64_t positions, int classes, double smoothing,
                            double weight, float* d_out) {
    double sum = 0;
    for (int64_t i = 0; i < positions; ++i, out += classes, d_out += classes) {
        if (targets[i] < 0) {
            std::fill(d_out, d_out + classes, 0.0f);
            continue;
        }
        double top = double(out[0]), total = 0;
        for (int k = 1; k < classes; ++k) top = std::max(top, double(out[k]));
        for (int k = 0; k < classes; ++k) total += std::exp(double(out[k]) - top);
        const double log_total = top + std::log(total);
        for (int k = 0; k < classes; ++k) {
            const double want = smoothing / classes + (k == targets[i] ? 1 - smoothing : 0);
            sum += weight * want * (log_total - double(out[k]));
            d_out[k] = float(weight * (std::exp(double(out[k]) - log_total) - want));
        }
    }
    return sum;
}

// ---- The curriculum

enum class Event { none, longer, final_stage, back, finished };

struct Curriculum {
    double  length = 0;   // the longest drawn; grows by a factor
    double  running = 0;  // mean of the loss over the last steps or so
    int64_t in_stage = 0; // steps since the length changed
    int64_t high = 0;     // steps in a row with the loss far above the threshold
    int64_t updates = 0;  // of the parameters
    bool    final = false;
    bool    first = true; // no stage has been passed

    // Takes the loss of a step and says what happens next.
    Event observe(const Settings& s, double loss) {
        running = updates == 0 ? loss : 0.9 * running + 0.1 * loss;
        const double low = loss_floor(s.classes(), s.smoothing) + s.threshold;
        ++in_stage, ++updates;
        high = running > low + s.spike ? high + 1 : 0;
        if (final && in_stage >= s.final_steps) return Event::finished;
        if (!first && s.spike_steps > 0 && high >= s.spike_steps) return Event::back;
        if (!final && s.patience > 0 && in_stage >= s.patience) return Event::back;
        if (final || in_stage < s.stage_steps || running >= low) return Event::none;
        in_stage = high = 0, first = false;
        if (length >= double(s.max_length)) {
            final = true;
            return s.final_steps > 0 ? Event::final_stage : Event::finished;
        }
        length = std::min(double(s.max_length), length * s.growth);
        return Event::longer;
    }
    // A length for the next batch.
    int64_t draw_length(const Settings& s, s4d::Random& random) const {
        const int64_t longest = int64_t(length);
        const int64_t drawn = 3 + int64_t(random.below(uint64_t(longest - 2)));
        return final && !s.final_uniform ? longest : drawn;
    }
    double rate(const Settings& s) const { // as a part of lr
        const double climb = s.warmup > 0 ? std::min(1.0, double(updates + 1) / double(s.warmup)) : 1;
        const double part = final ? double(in_stage) / double(std::max<int64_t>(1, s.final_steps)) : 0;
        return climb * (1 + (s.final_lr - 1) * part);
    }
};

// ---- Training

// Where the guard goes back to.
struct Snapshot {
    std::vector<float> params, m, v;
    Curriculum         curriculum;
};

struct Score { // scaled accuracies: 0 by chance, 1 if all is right
    double all = 0, end = 0;
};

// The last S rows of an in_proj are the angles'.
inline void for_angles(const mamba3::Net<float>& net, const std::function<void(size_t, size_t)>& f) {
    for (const s4d::Tensor& t : net.tensors) {
        const std::string tail = "in_proj.weight";
        if (t.name.size() < tail.size() || t.name.compare(t.name.size() - tail.size(), tail.size(), tail) != 0)
            continue;
        const size_t end = size_t(t.offset + t.count);
        f(end - size_t(net.config.rope_angles) * size_t(t.shape[1]), end);
    }
}

class Trainer {
  public:
    mamba3::Net<float>    net;
    std::vector<float>    m, v, fixed; // fixed: 1 for parameters that do not change; empty: none
    Curriculum            curriculum;
    std::vector<Snapshot> snapshots;    // at the beginning of the last stages, the newest at the end
    int64_t               step = 0;     // all steps, those undone too
    int64_t               undone = 0;   // times the guard went back
    std::vector<float>    losses;       // of each step, without penalties
    double                gradient = 0; // norm, before clipping
    std::vector<float>    initial;      // where begin() starts instead of a fresh network; empty: there

    explicit Trainer(const Settings& settings)
        : net(settings.net), s_(settings), pool_(thread_count(settings)),
          groups_(size_t((settings.batch + group_size - 1) / group_size)), spaces_(size_t(thread_count(settings))) {
        begin();
        for (Group& g : groups_) g.grad.resize(net.params.size());
    }

    // One step. The penalties of the loss apply as the curriculum says.
    Event train() {
        s4d::Random random(train::mix(uint64_t(s_.seed), uint64_t(step), 0xba7c4));
        draw(s_.task, random, s_.batch, curriculum.draw_length(s_, random), s_.pvar, s_.end_only, drawn_);
        const double loss = differentiate(s_.areg, curriculum.final ? s_.treg : 0);
        update(s_.lr * curriculum.rate(s_));
        ++step;
        losses.push_back(float(loss));
        if (!std::isfinite(loss) || !std::isfinite(gradient)) return back();
        const Event event = curriculum.observe(s_, loss);
        if (event == Event::back) return back();
        if (event == Event::longer || event == Event::final_stage) {
            if (snapshots.size() == max_snapshots) snapshots.erase(snapshots.begin());
            snapshots.push_back({net.params, m, v, curriculum});
        }
        return event;
    }

    Score measure(int64_t length, int64_t count, uint64_t seed) {
        const int64_t        n = (count + group_size - 1) / group_size;
        std::vector<int64_t> sums(size_t(n) * 4);
        refresh();
        pool_.run(n, [&](int64_t k, int64_t thread) {
            Space&      space = spaces_[size_t(thread)];
            s4d::Random random(train::mix(seed, uint64_t(k), 0x7e57));
            Drawn       d;
            draw(s_.task, random, std::min(group_size, count - k * group_size), length, false, false, d);
            const int classes = s_.classes();
            space.out.resize(d.tokens.size() * size_t(classes));
            mamba3::forward(seen(), batch_of(d, 0, d.count), space.ws, space.out.data());
            for (size_t i = 0; i < d.targets.size(); ++i) {
                if (d.targets[i] < 0) continue;
                const float*  o = space.out.data() + i * size_t(classes);
                const bool    end = (i + 1) % size_t(d.length) == 0;
                const int64_t right = std::max_element(o, o + classes) - o == d.targets[i] ? 1 : 0;
                int64_t*      sum = sums.data() + k * 4;
                sum[0] += right, sum[1] += 1, sum[2] += end ? right : 0, sum[3] += end ? 1 : 0;
            }
        });
        int64_t total[4] = {0, 0, 0, 0};
        for (size_t i = 0; i < sums.size(); ++i) total[i % 4] += sums[i];
        const double chance = 1.0 / s_.classes();
        const auto   scaled = [&](int64_t right, int64_t of) {
            return (double(right) / double(std::max<int64_t>(1, of)) - chance) / (1 - chance);
        };
        return {scaled(total[0], total[1]), scaled(total[2], total[3])};
    }
    Score test() { return measure(s_.test_length, s_.test_count, 0x7e57ed); } // the same sequences for every seed

    // Makes the turns exact, then trains what writes and reads the state, at the full length and with a learning rate
    // that falls from lr to 0, while all that decides about dt, A, lambda and turns stays as it is.
    bool snap(Snapped* snapped, std::string* error) {
        if (!tracking::snap(net, snapped, error)) return false;
        const mamba3::Config& c = net.config;
        const auto&           at = net.layers[0];
        const int64_t         d = c.d_model, rows = at.in_proj + c.rows() * d;
        fixed.assign(net.params.size(), 0.0f);
        const auto fix = [&](int64_t from, int64_t count) { std::fill_n(fixed.begin() + from, count, 1.0f); };
        fix(net.embedding, c.vocab * d), fix(at.norm, d), fix(at.dt_bias, c.heads());
        fix(rows - (3 * c.heads() + c.rope_angles) * d, (3 * c.heads() + c.rope_angles) * d);
        for (int64_t k = 0; k < s_.snap_steps; ++k) {
            s4d::Random random(train::mix(uint64_t(s_.seed), uint64_t(step), 0xba7c4));
            draw(s_.task, random, s_.batch, s_.max_length, s_.pvar, s_.end_only, drawn_);
            losses.push_back(float(differentiate(0, 0)));
            update(s_.lr * (1 - double(k) / double(s_.snap_steps)));
            ++step, ++curriculum.updates;
        }
        return true;
    }

    // A fresh network; with another seed after every time the guard went back to the very beginning.
    void begin() {
        s4d::Random random(train::mix(uint64_t(s_.seed), uint64_t(undone), 0x1417));
        net.init(random, s_.dt_min, s_.dt_max);
        if (!initial.empty()) net.params = initial;
        if (!s_.rotation)
            for_angles(net, [&](size_t from, size_t to) {
                fixed.resize(net.params.size(), 0.0f);
                std::fill(&net.params[from], &net.params[to - 1] + 1, 0.0f);
                std::fill(&fixed[from], &fixed[to - 1] + 1, 1.0f);
            });
        m.assign(net.params.size(), 0.0f), v = m;
        curriculum = Curriculum();
        curriculum.length = double(s_.start_length);
        snapshots.clear();
    }

  private:
    struct Group {
        std::vector<float> grad;
        double             loss = 0;
    };
    struct Space { // of a thread
        mamba3::Workspace<float> ws;
        std::vector<float>       out, d_out;
    };
    const Settings     s_;
    train::ThreadPool  pool_;
    std::vector<Group> groups_;
    std::vector<Space> spaces_;
    Drawn              drawn_;

    std::vector<mamba3::Net<float>> rounded_; // with qat: one, the network as it will be quantized

    const mamba3::Net<float>& seen() const { return rounded_.empty() ? net : rounded_[0]; }
    void                      refresh() { // before seen(), when parameters may have changed
        if (s_.qat_bits == 0) return;
        if (rounded_.empty()) rounded_.push_back(net);
        rounded_[0].params = net.params;
        train::round_weights(net.tensors, s_.qat_bits, 3 * net.config.heads() + net.config.rope_angles,
                                                  rounded_[0].params);
    }
    static int64_t thread_count(const Settings& s) {
        return s.threads > 0 ? s.threads : std::max<int64_t>(1, int64_t(std::thread::hardware_concurrency()));
    }
    static mamba3::Batch<float> batch_of(const Drawn& d, int64_t first, int64_t count) {
        mamba3::Batch<float> b;
        b.n_streams = int(count), b.T = d.length, b.tokens = d.tokens.data() + first * d.length;
        return b;
    }

    // Loss and gradient of the sequences drawn; the gradient's sum lies in groups_[0].
    double differentiate(double areg, double treg) {
        refresh();
        pool_.run(int64_t(groups_.size()), [&](int64_t k, int64_t thread) {
            Group&          group = groups_[size_t(k)];
            Space&          space = spaces_[size_t(thread)];
            const int64_t   first = k * group_size, count = std::min(group_size, s_.batch - first);
            const double    part = double(count) / double(s_.batch);
            const auto      batch = batch_of(drawn_, first, count);
            mamba3::Penalty penalty;
            penalty.areg = areg * part, penalty.treg = treg * part;
            const int64_t positions = count * drawn_.length;
            space.out.resize(size_t(positions * s_.classes())), space.d_out.resize(space.out.size());
            std::fill(group.grad.begin(), group.grad.end(), 0.0f);
            mamba3::forward(seen(), batch, space.ws, space.out.data(), penalty);
            group.loss = cross_entropy(space.out.data(), drawn_.targets.data() + first * drawn_.length, positions,
                                       s_.classes(), s_.smoothing, 1.0 / double(drawn_.n_targets), space.d_out.data());
            mamba3::backward(seen(), batch, space.ws, space.d_out.data(), group.grad.data(), penalty);
        });
        double loss = groups_[0].loss;
        for (size_t k = 1; k < groups_.size(); ++k) {
            loss += groups_[k].loss;
            for (size_t i = 0; i < net.params.size(); ++i) groups_[0].grad[i] += groups_[k].grad[i];
        }
        return loss;
    }

    // AdamW with the gradient in groups_[0]; the decay is apart from it and times the learning rate.
    void update(double lr) {
        std::vector<float>& grad = groups_[0].grad;
        double              norm = 0;
        for (size_t i = 0; i < grad.size(); ++i) {
            if (!fixed.empty() && fixed[i] > 0) grad[i] = 0;
            norm += double(grad[i]) * double(grad[i]);
        }
        gradient = std::sqrt(norm);
        const float  scale = float(s_.clip > 0 && gradient > s_.clip ? s_.clip / gradient : 1);
        const double t = double(curriculum.updates + 1);
        const float  b1 = float(s_.beta1), b2 = float(s_.beta2), fix1 = float(1 / (1 - std::pow(s_.beta1, t))),
                    fix2 = float(1 / (1 - std::pow(s_.beta2, t))), rate = float(lr),
                    decay = float(lr * s_.weight_decay);
        for (size_t i = 0; i < grad.size(); ++i) {
            if (!fixed.empty() && fixed[i] > 0) continue;
            const float g = grad[i] * scale;
            m[i] = b1 * m[i] + (1 - b1) * g;
            v[i] = b2 * v[i] + (1 - b2) * g * g;
            net.params[i] -=
                decay * net.decay[i] * net.params[i] + rate * (m[i] * fix1) / (std::sqrt(v[i] * fix2) + 1e-8f);
        }
    }

    // To the beginning of this stage; if the guard was there already, of the one before; at last to a fresh network.
    // Steps go on counting, so other sequences are drawn.
    Event back() {
        ++undone;
        if (snapshots.empty()) {
            begin();
            return Event::back;
        }
        const Snapshot last = snapshots.back();
        net.params = last.params, m = last.m, v = last.v, curriculum = last.curriculum;
        snapshots.pop_back();
        return Event::back;
    }
};

// ---- Checkpoints

// All numbers of a trainer but its parameters, as text that brings every bit back.
inline std::string curriculum_text(const Curriculum& c) {
    char text[200];
    std::snprintf(text, sizeof text, "%a %a %lld %lld %lld %d %d", c.length, c.running,
                  static_cast<long long>(c.in_stage), static_cast<long long>(c.high), static_cast<long long>(c.updates),
                  int(c.final), int(c.first));
    return text;
}
inline bool parse_curriculum(const std::string& text, Curriculum* c) {
    long long in_stage = 0, high = 0, updates = 0;
    int       final = 0, first = 0;
    if (std::sscanf(text.c_str(), "%la %la %lld %lld %lld %d %d", &c->length, &c->running, &in_stage, &high, &updates,
                    &final, &first) != 7 ||
        !(c->length >= 3 && c->length <= 4096) || !std::isfinite(c->running) || in_stage < 0 || high < 0 || updates < 0)
        return false;
    c->in_stage = in_stage, c->high = high, c->updates = updates, c->final = final != 0, c->first = first != 0;
    return true;
}

inline bool save_checkpoint(const std::string& path, const Settings& s, const Trainer& trainer, std::string* error) {
    std::map<std::string, std::string> metadata = {{"format", "ssm-train-tracking"},
                                                   {"format_version", "1"},
                                                   {"step", std::to_string(trainer.step)},
                                                   {"undone", std::to_string(trainer.undone)},
                                                   {"snapshots", std::to_string(trainer.snapshots.size())},
                                                   {"curriculum", curriculum_text(trainer.curriculum)}};
    for (const auto& entry : s.text) metadata["config." + entry.first] = entry.second;
    std::vector<TensorOut> out;
    const auto             add = [&](const std::string& name, const std::vector<float>& values) {
        out.push_back({name, "F32", {values.size()}, values.data(), values.size() * sizeof(float)});
    };
    add("params", trainer.net.params), add("m", trainer.m), add("v", trainer.v), add("losses", trainer.losses);
    for (size_t i = 0; i < trainer.snapshots.size(); ++i) {
        const Snapshot&   snapshot = trainer.snapshots[i];
        const std::string name = "snapshot." + std::to_string(i) + ".";
        metadata[name + "curriculum"] = curriculum_text(snapshot.curriculum);
        add(name + "params", snapshot.params), add(name + "m", snapshot.m), add(name + "v", snapshot.v);
    }
    return write_safetensors(path, metadata, out, error);
}

// Reads a checkpoint of the same settings. done, or an exit status and one line in `error`.
inline int load_checkpoint(const std::string& path, const Settings& s, Trainer& trainer, std::string* error) {
    const train::CheckpointFile file(path);
    if (!file.error.empty()) {
        *error = file.error;
        return file.io ? io_error : bad_file;
    }
    std::string text;
    const auto  wrong = [&](const std::string& what) {
        *error = what;
        return bad_file;
    };
    const auto number = [&](const char* key, int64_t high, int64_t* value) {
        double x = -1;
        if (!file.text(key, &text) || !train::read_number(text, &x) || x < 0 || x > double(high) || x != std::floor(x))
            return false;
        *value = int64_t(x);
        return true;
    };
    if (!file.text("format", &text) || text != "ssm-train-tracking" || !file.text("format_version", &text) ||
        text != "1")
        return wrong("not a checkpoint of this version for state tracking");
    for (const Key& k : keys()) {
        const auto mine = s.text.find(k.name);
        const bool had = file.text(std::string("config.") + k.name, &text);
        if (k.shapes_result && (had != (mine != s.text.end()) || (had && text != mine->second)))
            return wrong(std::string("made with another configuration: key \"") + k.name + "\" was " +
                         (had ? "\"" + shown(text) + "\"" : "not set") + ", is " +
                         (mine != s.text.end() ? "\"" + shown(mine->second) + "\"" : "not set"));
    }
    int64_t snapshots = 0;
    if (!number("step", int64_t(1e9), &trainer.step) || !number("undone", int64_t(1e9), &trainer.undone) ||
        !number("snapshots", int64_t(max_snapshots), &snapshots) || !file.text("curriculum", &text) ||
        !parse_curriculum(text, &trainer.curriculum))
        return wrong("its metadata do not belong together");
    trainer.losses.assign(size_t(trainer.step), 0.0f);
    trainer.snapshots.assign(size_t(snapshots), Snapshot{trainer.net.params, trainer.m, trainer.v, Curriculum()});
    const auto take = [&](const std::string& name, std::vector<float>& values) {
        return file.take(name, "F32", values.size() * sizeof(float), values.data(), error) != UINT64_MAX;
    };
    if (!take("params", trainer.net.params) || !take("m", trainer.m) || !take("v", trainer.v) ||
        !take("losses", trainer.losses))
        return bad_file;
    for (size_t i = 0; i < trainer.snapshots.size(); ++i) {
        Snapshot&         snapshot = trainer.snapshots[i];
        const std::string name = "snapshot." + std::to_string(i) + ".";
        if (!take(name + "params", snapshot.params) || !take(name + "m", snapshot.m) || !take(name + "v", snapshot.v))
            return bad_file;
        if (!file.text(name + "curriculum", &text) || !parse_curriculum(text, &snapshot.curriculum))
            return wrong("its metadata do not belong together");
    }
    return done;
}

// ---- The model file

inline bool save_model(const std::string& path, const Settings& s, const Trainer& trainer, const Score& score,
                       std::string* error) {
    const mamba3::Config& c = trainer.net.config;
    char                  text[200];
    std::snprintf(text, sizeof text, "; %lld steps; at length %lld all %.6g, end %.6g",
                  static_cast<long long>(trainer.step), static_cast<long long>(s.test_length), 100 * score.all,
                  100 * score.end);
    std::string provenance = "ssm train; seed " + std::to_string(s.seed) + text + "; config";
    for (const auto& entry : s.text)
        provenance += " " + entry.first + "=" + train::shown_setting(entry.first, entry.second);
    std::string labels;
    for (int i = 0; i < s.classes(); ++i) labels += (i > 0 ? "," : "") + std::to_string(i);
    std::snprintf(text, sizeof text, "%.9g", c.A_floor);
    const std::map<std::string, std::string> metadata = {{"format", "ssm-float"},
                                                         {"format_version", "1"},
                                                         {"arch", "mamba3"},
                                                         {"norm", "rms"},
                                                         {"mlp_hidden", std::to_string(c.mlp_hidden)},
                                                         {"input", "tokens"},
                                                         {"head", "linear"},
                                                         {"pool", "none"},
                                                         {"d_model", std::to_string(c.d_model)},
                                                         {"n_layer", std::to_string(c.n_layers)},
                                                         {"d_inner", std::to_string(c.d_inner)},
                                                         {"d_state", std::to_string(c.d_state)},
                                                         {"vocab_size", std::to_string(c.vocab)},
                                                         {"d_output", std::to_string(c.d_output)},
                                                         {"headdim", std::to_string(c.headdim)},
                                                         {"ngroups", std::to_string(c.ngroups)},
                                                         {"is_mimo", c.is_mimo ? "true" : "false"},
                                                         {"mimo_rank", std::to_string(c.mimo_rank)},
                                                         {"rope_angles", std::to_string(c.rope_angles)},
                                                         {"is_outproj_norm", c.is_outproj_norm ? "true" : "false"},
                                                         {"a_activation", c.softplus_A ? "softplus" : "heavy_tail"},
                                                         {"a_floor", text},
                                                         {"task", task_names[int(s.task)]},
                                                         {"labels", labels},
                                                         {"provenance", provenance}};
    std::vector<TensorOut>                   out;
    for (const s4d::Tensor& t : trainer.net.tensors) out.push_back(train::tensor_out(t.name, t, trainer.net.params));
    return write_safetensors(path, metadata, out, error);
}

// ---- Exact steps

// What the runtime makes of one token in the first layer: inputs and results of softplus.
struct Steps {
    std::vector<float> in_proj, dt;
    static void        see(void* user, const char* stage, int32_t layer, int32_t, const float* values, int32_t count) {
               Steps* const steps = static_cast<Steps*>(user);
               if (layer != 0) return;
        if (std::strcmp(stage, "in_proj") == 0) steps->in_proj.assign(values, values + count);
        if (std::strcmp(stage, "dt") == 0) steps->dt.assign(values, values + count);
    }
};
inline bool steps_at(const std::string& path, int32_t token, Steps* steps) {
    tool::OpenModel m;
    ssm::State      state;
    ssm::Scratch    scratch;
    if (tool::open_model("train", path.c_str(), ssm::Isa::best, 1, 1, &m) != 0 ||
        ssm::make_state(&state, m.model, &m.arena) != ssm::Status::ok ||
        ssm::make_scratch(&scratch, m.model, 1, &m.arena) != ssm::Status::ok)
        return false;
    const ssm::Trace   trace{Steps::see, steps};
    std::vector<float> x(size_t(m.config.d_model)), y(size_t(m.config.d_output));
    scratch.trace = &trace;
    return ssm::embed(m.model, token, x.data()) == ssm::Status::ok &&
           ssm::step(m.model, &state, &scratch, x.data(), y.data()) == ssm::Status::ok;
}

// Rounding leaves the dt of a turning head beside 1. dt_bias makes it exactly 1 in the runtime's own arithmetic: what
// in_proj gives is within a factor of two of the number wanted, so their difference and the sum with it are exact.
// `save` writes the model to `path`.
inline bool calibrate(Trainer& trainer, const Snapped& snapped, const std::string& path,
                      const std::function<bool()>& save, std::string* error) {
    const mamba3::Config& c = trainer.net.config;
    const size_t          H = size_t(c.heads()), first = size_t(c.rows()) - 3 * H - size_t(c.rope_angles);
    Steps                 steps;
    const auto            look = [&](size_t token) {
        if (!save()) return false;
        return steps_at(path, int32_t(token), &steps) || (*error = shown(path) + ": cannot be run", false);
    };
    for (size_t h = 0; h < H; ++h) {
        float wanted = float(snap_step); // the float whose softplus is 1 is this one or near
        bool  adjusted = false;
        for (size_t v = 0; v < size_t(c.vocab); ++v) {
            if (!snapped.moves[v * H + h]) continue;
            if (!look(v)) return false;
            for (int tries = 0; steps.dt[h] != 1.0f && !adjusted && tries < 16; ++tries) {
                if (tries > 0) wanted = std::nextafter(wanted, steps.dt[h] < 1.0f ? 1.0f : 0.0f);
                trainer.net.params[size_t(trainer.net.layers[0].dt_bias) + h] = wanted - steps.in_proj[first + h];
                if (!look(v)) return false;
            }
            adjusted = true;
            if (steps.dt[h] != 1.0f) return *error = "snap: a step that cannot be made exact", false;
        }
    }
    return save();
}

// ---- The run

struct Result {
    int                status = done;
    std::string        message; // one line, if status is not done
    Score              score;   // of the final model
    int64_t            steps = 0;
    double             seconds = 0;
    std::vector<float> params, losses;
};

inline Result run(const Settings& s, const train::Options& options) {
    Result      result;
    std::string error;
    const auto  fail = [&](int status, const std::string& message) {
        result.status = status, result.message = message;
        return result;
    };
    for (const std::string* path : {&s.out, &s.checkpoint, &s.plot}) {
        const size_t      slash = path->rfind('/');
        const std::string folder = slash == std::string::npos ? "." : path->substr(0, std::max<size_t>(1, slash));
        if (!path->empty() && ::access(folder.c_str(), W_OK) != 0)
            return fail(io_error, shown(*path) + ": " + std::strerror(errno));
    }
    Trainer      trainer(s);
    const double began = train::seconds();
    double       told = began;
    const bool   terminal = ::isatty(2) != 0;
    if (!s.from.empty()) {
        trainer.initial = trainer.net.params;
        if (const int status = train::read_params(s.from, trainer.net.tensors, trainer.initial, &error))
            return fail(status, error);
        trainer.begin();
    }
    if (!options.resume.empty()) {
        const int status = load_checkpoint(options.resume, s, trainer, &error);
        if (status != done) return fail(status, shown(options.resume) + ": " + error);
    }
    if (!options.quiet)
        std::fprintf(stderr, "%lld parameters, task %s, up to %lld steps of %lld sequences\n",
                     static_cast<long long>(trainer.net.params.size()), task_names[int(s.task)],
                     static_cast<long long>(s.steps), static_cast<long long>(s.batch));
    const auto save = [&] {
        if (!s.checkpoint.empty() && !save_checkpoint(s.checkpoint, s, trainer, &error)) {
            error = shown(s.checkpoint) + ": " + error;
            return false;
        }
        if (!s.plot.empty()) {
            train::State curve;
            curve.loss = trainer.losses, curve.step = trainer.step;
            const std::string text = train::svg(curve, "");
            if (!write_file_atomically(s.plot, {{text.data(), text.size()}}, &error)) {
                error = shown(s.plot) + ": " + error;
                return false;
            }
        }
        return true;
    };
    const int64_t until = options.max_steps >= 0 ? std::min(s.steps, trainer.step + options.max_steps) : s.steps;
    Event         event = Event::none;
    while (trainer.step < until && event != Event::finished && train::stop_asked == 0) {
        event = trainer.train();
        if (s.checkpoint_every > 0 && trainer.step % s.checkpoint_every == 0 && !save()) return fail(io_error, error);
        const double now = train::seconds();
        if (!options.quiet && (event != Event::none || now - told > (terminal ? 0.5 : 30))) {
            const char* const what = event == Event::back          ? "  went back"
                                     : event == Event::final_stage ? "  final stage"
                                                                   : "";
            std::fprintf(stderr,
                         terminal ? "\rstep %lld  length %d  loss %.4f  gradient %.3g%s  %.0f s   "
                                  : "step %lld  length %d  loss %.4f  gradient %.3g%s  %.0f s\n",
                         static_cast<long long>(trainer.step), int(trainer.curriculum.length),
                         trainer.curriculum.running, trainer.gradient, what, now - began);
            if (terminal && event != Event::none) std::fputc('\n', stderr);
            told = now;
        }
    }
    if (!save()) return fail(io_error, error);
    Snapped    snapped;
    const bool finished = event == Event::finished || trainer.step >= s.steps;
    if (s.snap && finished) {
        const Score before = trainer.test();
        if (!options.quiet)
            std::fprintf(stderr, "as trained: all %.6g, end %.6g\n", 100 * before.all, 100 * before.end);
        if (!trainer.snap(&snapped, &error)) return fail(some_failed, error);
    }
    result.score = trainer.test();
    result.steps = trainer.step, result.seconds = train::seconds() - began;
    result.losses = trainer.losses;
    const auto write = [&] {
        return s.out.empty() || save_model(s.out, s, trainer, result.score, &error) ||
               (error = shown(s.out) + ": " + error, false);
    };
    if (!(s.snap && finished && !s.out.empty() ? calibrate(trainer, snapped, s.out, write, &error) : write()))
        return fail(io_error, error);
    result.params = trainer.net.params;
    return result;
}

// A settings file is for this runner if its last `task` is one of ours.
inline bool takes(const std::string& config, const std::vector<std::string>& sets) {
    std::ifstream            in(config);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line.substr(0, line.find('#')));
    lines.insert(lines.end(), sets.begin(), sets.end());
    bool ours = false;
    for (const std::string& line : lines) {
        std::string key, value, error;
        if (train::split_setting(line, &key, &value, &error) && key == "task")
            ours = std::find(std::begin(task_names), std::end(task_names), value) != std::end(task_names);
    }
    return ours;
}

// `ssm train` for these tasks; the line has been read.
inline int verb(const std::string& config, const std::vector<std::string>& sets, const train::Options& options) {
    const auto complain = [](int status, const std::string& what) {
        std::fprintf(stderr, "ssm train: %s\n", what.c_str());
        return status;
    };
    Settings    s;
    std::string error;
    bool        unreadable = false;
    if (!train::read_settings(config, s, &error, &unreadable))
        return complain(unreadable ? io_error : bad_usage, error);
    for (const std::string& set : sets)
        if (!take_setting(s, set, &error)) return complain(bad_usage, "--set " + shown(set) + ": " + error);
    if (!complete(s, &error)) return complain(bad_usage, shown(config) + ": " + error);
    const Result r = run(s, options);
    if (r.status != done) return complain(r.status, r.message);
    std::printf("all: %.2f\nend: %.2f\nsteps: %lld\nseconds: %.0f\n", 100 * r.score.all, 100 * r.score.end,
                static_cast<long long>(r.steps), r.seconds);
    return std::fflush(stdout) != 0 || std::ferror(stdout) != 0 ? complain(io_error, "standard output: cannot write")
                                                                : done;
}

} // namespace tracking

#endif
