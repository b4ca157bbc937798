// train_next.hpp - tasks on change histories, and the task "next": which files does the next commit touch?
// SPDX-License-Identifier: MIT
//
// Data: a folder of .ev files, one project each. A file is a stream: its touches are events, and for each query the
// candidates get a probe. An example is a run of `next.queries` queries of one project, drawn at random from its first
// part; a query's candidates are its targets, the `next.hard` other files touched most lately and `next.random` others.
// Loss: softmax over a query's candidates, mean over its targets. Options, with their defaults:
//
//     next.features  probe,rate,gap,added,share,last  inputs, by the names in history.hpp
//     next.hold      (none)               projects kept for validation, separated by commas
//     next.fraction  0.8                  of each project's commits that may be learned from; the rest is for measuring
//     next.queries   32    next.hard  20    next.random  32

#ifndef TRAIN_NEXT_HPP
#define TRAIN_NEXT_HPP

#include "history.hpp"
#include "next.hpp"
#include "train_task.hpp"

#include <functional>

#include <dirent.h>

namespace train {

// What tasks on histories share. A task says what a touch and a candidate look like.
struct HistoryTask : Task {
    bool configure(const Settings& s, std::string* error) override {
        TaskOptions o{options()};
        if (!o.read(s, error)) return false;
        const std::string prefix = s.task + ".";
        const auto        number = [&](const char* name, double low, double high, double* out) {
            return o.number(prefix + name, low, high, out, error);
        };
        if (!number("fraction", 0.001, 1, &fraction_) || !number("queries", 1, 10000, &queries_)) return false;
        if (!take_options(o.values, number, error)) return false;
        hold_ = "," + o.values[prefix + "hold"] + ",";
        if (s.net.pool != s4d::Pool::none) return *error = "task " + s.task + " needs pool = none", false;
        return true;
    }
    bool prepare(Settings& s, std::string* error) override {
        // 1. Projects, in the order of their names.
        std::vector<std::string> names;
        DIR*                     d = ::opendir(s.data.c_str());
        if (d == nullptr) return *error = shown(s.data) + ": cannot be opened as a folder", false;
        while (const dirent* e = ::readdir(d)) {
            const std::string name = e->d_name;
            if (name.size() > 3 && name.substr(name.size() - 3) == ".ev")
                names.push_back(name.substr(0, name.size() - 3));
        }
        ::closedir(d);
        std::sort(names.begin(), names.end());
        if (names.empty()) return *error = shown(s.data) + ": holds no .ev file", false;

        // 2. Their replays, cut into examples.
        std::vector<Example> held;
        for (const std::string& name : names) {
            std::vector<history::Event> events;
            std::string                 why;
            if (!history::read_file(s.data + "/" + name + ".ev", &events, &why))
                return *error = shown(s.data + "/" + name) + ".ev: " + shown(why), false;
            const bool hold = hold_.find("," + name + ",") != std::string::npos;
            projects_.emplace_back();
            replay(events, hold, uint64_t(s.seed) * 1000 + projects_.size(), &projects_.back());
            const size_t         n = projects_.back().queries.size();
            std::vector<int32_t> order(n);
            for (size_t i = 0; i < n; ++i) order[i] = int32_t(i);
            s4d::Random shuffle(uint64_t(s.seed) * 77 + projects_.size());
            for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[size_t(shuffle.below(i))]);
            for (size_t i = 0; i < n; i += size_t(queries_))
                (hold ? held : examples_)
                    .push_back(
                        {int32_t(projects_.size() - 1),
                         {order.begin() + int64_t(i), order.begin() + int64_t(std::min(n, i + size_t(queries_)))}});
        }
        n_train_ = int64_t(examples_.size());
        if (n_train_ == 0) return *error = shown(s.data) + ": no query to learn from", false;
        examples_.insert(examples_.end(), held.begin(), held.end());
        s.net.d_input = int(width_), s.net.d_output = 1;
        return true;
    }
    int64_t n_train() const override { return n_train_; }
    int64_t n_valid() const override { return int64_t(examples_.size()) - n_train_; }
    void    learn(const Settings&, const s4d::Ready<float>& ready, int64_t example, double weight, s4d::Random& random,
                  Slot& slot) const override {
        run(ready, example, weight, &random, slot);
    }
    void measure(const Settings&, const s4d::Ready<float>& ready, int64_t example, Slot& slot) const override {
        run(ready, example, 1, nullptr, slot);
    }
    std::vector<Metric> metrics(double loss, double metric, double count) const override {
        return {{"MRR among sampled candidates", metric / count},
                {"loss", loss / double(std::max<int64_t>(1, n_valid()))}};
    }

  protected:
    using Number = std::function<bool(const char* name, double low, double high, double* out)>;
    virtual std::map<std::string, std::string> options() const = 0; // with their defaults
    // Reads the task's own options, sets width_ (inputs) and `input` (their names).
    virtual bool take_options(std::map<std::string, std::string>& o, const Number& number, std::string* error) = 0;
    struct Touch {
        int64_t            index;
        float              dt;
        std::vector<float> x;
    };
    struct Query {
        int64_t              index = 0;
        int32_t              n_targets = 0, n_hard = 0;
        std::vector<int32_t> candidates; // targets, hard ones, then a pool of random ones, twice what a step takes
        std::vector<float>   x, dt;      // [candidates][features], [candidates]
    };
    struct Project {
        std::vector<std::vector<Touch>> touches;
        std::vector<Query>              queries;
    };
    struct Example {
        int32_t              project;
        std::vector<int32_t> queries;
    };

    std::vector<Project> projects_;
    std::vector<Example> examples_;
    size_t               width_ = 0; // numbers of an input
    double               fraction_ = 0.8, queries_ = 32; // queries of an example
    std::string          hold_;                          // names of projects, each between commas
    int32_t              random_ = 0; // candidates drawn at each step from a query's pool of others
    int64_t              n_train_ = 0;

    // Goes through a history. Projects to learn from: queries of the first part. Held ones: queries of the rest, which
    // nothing was learned from.
    virtual void replay(const std::vector<history::Event>& events, bool hold, uint64_t seed, Project* p) const = 0;

    void run(const s4d::Ready<float>& ready, int64_t example, double weight, s4d::Random* random, Slot& slot) const {
        const Example& ex = examples_[size_t(example)];
        const Project& p = projects_[size_t(ex.project)];

        // 1. Which candidates, and in which file's stream: (file, query, place among the query's candidates).
        struct Probe {
            int32_t file, query, place, slot;
        };
        std::vector<Probe>   probes;
        std::vector<int32_t> first; // of each query's scores
        int32_t              n = 0;
        for (size_t a = 0; a < ex.queries.size(); ++a) {
            const Query&         q = p.queries[size_t(ex.queries[a])];
            std::vector<int32_t> places;
            const int32_t        fixed = q.n_targets + q.n_hard, pool = int32_t(q.candidates.size()) - fixed;
            for (int32_t k = 0; k < fixed; ++k) places.push_back(k);
            const int32_t from =
                random != nullptr && pool > random_ ? int32_t(random->below(uint64_t(pool - random_ + 1))) : 0;
            for (int32_t k = 0; k < std::min(pool, int32_t(random_)); ++k) places.push_back(fixed + from + k);
            first.push_back(n);
            for (int32_t k : places) probes.push_back({q.candidates[size_t(k)], ex.queries[a], k, n++});
        }
        std::sort(probes.begin(), probes.end(), [&](const Probe& a, const Probe& b) {
            return a.file != b.file ? a.file < b.file : a.query < b.query;
        });

        // 2. Each file's touches and probes in the order of time.
        std::vector<float>   x, dt;
        std::vector<uint8_t> is_probe;
        std::vector<int64_t> start{0};
        std::vector<int32_t> slot_of; // of each probe in row order
        for (size_t i = 0; i < probes.size();) {
            const int32_t                   file = probes[i].file;
            static const std::vector<Touch> none;
            const std::vector<Touch>&       touches = size_t(file) < p.touches.size() ? p.touches[size_t(file)] : none;
            size_t                          k = 0;
            for (; i < probes.size() && probes[i].file == file; ++i) {
                const Query& q = p.queries[size_t(probes[i].query)];
                for (; k < touches.size() && touches[k].index < q.index; ++k) {
                    x.insert(x.end(), touches[k].x.begin(), touches[k].x.end());
                    dt.push_back(touches[k].dt), is_probe.push_back(0);
                }
                const float* row = &q.x[size_t(probes[i].place) * width_];
                x.insert(x.end(), row, row + width_);
                dt.push_back(q.dt[size_t(probes[i].place)]), is_probe.push_back(1);
                slot_of.push_back(probes[i].slot);
            }
            start.push_back(int64_t(is_probe.size()));
        }
        s4d::Batch<float> batch;
        batch.x = x.data(), batch.dt = dt.data(), batch.probe = is_probe.data(), batch.start = start.data(),
        batch.n_streams = int64_t(start.size()) - 1;

        // 3. Scores, loss over each query's candidates, and back.
        float *out = slot.out.get(n), *d_out = slot.d_out.get(n);
        s4d::forward(ready, batch, slot.ws, out, random != nullptr);
        std::vector<float> score(size_t(n), 0.0f), d_score(size_t(n), 0.0f);
        for (int32_t i = 0; i < n; ++i) score[size_t(slot_of[size_t(i)])] = out[i];
        for (size_t a = 0; a < ex.queries.size(); ++a) {
            const Query&         q = p.queries[size_t(ex.queries[a])];
            const int32_t        end = a + 1 < first.size() ? first[a + 1] : n, count = end - first[a];
            const float*         y = &score[size_t(first[a])];
            std::vector<int64_t> targets;
            float                best = y[0];
            for (int32_t k = 0; k < q.n_targets; ++k) targets.push_back(k), best = std::max(best, y[k]);
            slot.loss += s4d::listwise_loss(y, count, targets.data(), q.n_targets, &d_score[size_t(first[a])],
                                            weight / double(ex.queries.size()));
            int32_t rank = 1;
            for (int32_t k = q.n_targets; k < count; ++k) rank += y[k] > best;
            slot.metric += 1.0 / rank, slot.count += 1;
        }
        if (random == nullptr) return;
        for (int32_t i = 0; i < n; ++i) d_out[i] = d_score[size_t(slot_of[size_t(i)])];
        s4d::backward(ready, batch, slot.ws, d_out, slot.grad);
    }
};

struct NextTask : HistoryTask {
  private:
    std::vector<int> features_;
    double           hard_ = 0;

    std::map<std::string, std::string> options() const override {
        return {{"next.features", "probe,rate,gap,added,share,last"},
                {"next.hold", ""},
                {"next.fraction", "0.8"},
                {"next.queries", "32"},
                {"next.hard", "20"},
                {"next.random", "32"}};
    }
    bool take_options(std::map<std::string, std::string>& o, const Number& number, std::string* error) override {
        std::string unknown;
        if (!next::parse_features(o["next.features"], &features_, &unknown))
            return *error = "next.features: \"" + shown(unknown) + "\" is not a feature", false;
        width_ = features_.size(), input = o["next.features"];
        double random = 0;
        if (!number("hard", 0, 10000, &hard_) || !number("random", 0, 10000, &random)) return false;
        random_ = int32_t(random);
        return true;
    }
    void take(const float* x, std::vector<float>* to) const {
        for (int f : features_) to->push_back(x[f]);
    }

    void replay(const std::vector<history::Event>& events, bool hold, uint64_t seed, Project* p) const override {
        history::Tracker     t;
        s4d::Random          rnd(seed);
        const int64_t        cut = int64_t(double(events.size()) * fraction_);
        std::vector<int32_t> targets;
        for (const history::Event& e : events) {
            if (!hold && t.index() >= cut) break;
            if (hold == (t.index() >= cut) && t.query(e, history::warm_up, &targets)) {
                Query q;
                q.index = t.index(), q.n_targets = int32_t(targets.size()), q.candidates = targets;
                std::vector<std::pair<double, int32_t>> others;
                for (int32_t id : t.candidates())
                    if (!std::binary_search(targets.begin(), targets.end(), id)) others.push_back({-t.decayed(id), id});
                const size_t hard = std::min(size_t(hard_), others.size()),
                             random = std::min(size_t(2 * random_), others.size() - hard);
                std::partial_sort(others.begin(), others.begin() + int64_t(hard), others.end());
                for (size_t k = hard; k < hard + random; ++k)
                    std::swap(others[k], others[k + size_t(rnd.below(others.size() - k))]);
                for (size_t k = 0; k < hard + random; ++k) q.candidates.push_back(others[k].second);
                q.n_hard = int32_t(hard);
                for (int32_t id : q.candidates) {
                    float x[history::n_features], dt;
                    t.probe(id, x, &dt);
                    take(x, &q.x);
                    q.dt.push_back(dt);
                }
                p->queries.push_back(std::move(q));
            }
            const int64_t now = t.index();
            t.apply(e, [&](int32_t id, const float* x, float dt) {
                if (size_t(id) >= p->touches.size()) p->touches.resize(size_t(id) + 1);
                p->touches[size_t(id)].push_back({now, dt, {}});
                take(x, &p->touches[size_t(id)].back().x);
            });
        }
    }
};

} // namespace train

#endif
