// train_relevance.hpp - the task "relevance": which files does the coming commit touch, given what is said about it?
// SPDX-License-Identifier: MIT
//
// As task "next" (train_next.hpp), with the inputs of memory.hpp: read-outs of a bounded memory of the project's last
// commits. A query is asked with its words, author and time, or (a share of them) with nothing known, as in task "next".
// Its candidates are its targets, hard ones (the first by four of the inputs) and random ones. Options:
//
//     relevance.hold      (none)  projects kept for validation, separated by commas
//     relevance.fraction  0.8     of each project's commits that may be learned from; the rest is for measuring
//     relevance.queries   32      of an example
//     relevance.hard      60      hard candidates        relevance.random  20   random ones
//     relevance.unasked   0.25    share of the queries asked with nothing known
//     relevance.bytes     262144  of the memory of events    relevance.items  4096  kept

#ifndef TRAIN_RELEVANCE_HPP
#define TRAIN_RELEVANCE_HPP

#include "relevance_history.hpp"
#include "train_next.hpp"

namespace train {

struct RelevanceTask : HistoryTask {
  private:
    double         hard_ = 0, unasked_ = 0;
    memory::Limits limits_;

    std::map<std::string, std::string> options() const override {
        return {{"relevance.hold", ""},      {"relevance.fraction", "0.8"}, {"relevance.queries", "32"},
                {"relevance.hard", "60"},    {"relevance.random", "20"},    {"relevance.unasked", "0.25"},
                {"relevance.bytes", "262144"}, {"relevance.items", "4096"}};
    }
    bool take_options(std::map<std::string, std::string>&, const Number& number, std::string*) override {
        double random = 0, bytes = 0, items = 0;
        if (!number("hard", 0, 10000, &hard_) || !number("random", 0, 10000, &random) ||
            !number("unasked", 0, 1, &unasked_) || !number("bytes", 4096, 737280, &bytes) ||
            !number("items", 16, 65535, &items))
            return false;
        random_ = int32_t(random), width_ = memory::n_inputs;
        limits_.event_bytes = uint32_t(bytes), limits_.items = uint32_t(items);
        for (const char* name : memory::input_names) input += (input.empty() ? "" : ",") + std::string(name);
        return true;
    }

    void replay(const std::vector<history::Event>& events, bool hold, uint64_t seed, Project* p) const override {
        history::Tracker      t;
        relevance::Commits    commits;
        memory::Memory        memory(limits_);
        s4d::Random           rnd(seed);
        const int64_t         cut = int64_t(double(events.size()) * fraction_);
        std::vector<int32_t>  targets;
        std::vector<float>    x, dt;
        std::vector<uint32_t> slot;
        for (const history::Event& e : events) {
            if (!hold && t.index() >= cut) break;
            if (hold == (t.index() >= cut) && t.query(e, history::warm_up, &targets)) {
                // 1. The inputs of all candidates.
                const std::vector<int32_t> all = t.candidates();
                std::vector<memory::Probe> probes(all.size());
                for (size_t i = 0; i < all.size(); ++i) probes[i].key = relevance::Commits::key(all[i]);
                x.resize(all.size() * width_), dt.resize(all.size()), slot.resize(all.size());
                memory::Query asked = commits.query(e);
                asked.asked = rnd.uniform() >= unasked_;
                memory.read(asked, probes.data(), all.size(), x.data(), dt.data(), slot.data());

                // 2. Which of them to learn from: targets, those that are first by some input, others.
                Query q;
                q.index = t.index(), q.n_targets = int32_t(targets.size());
                std::vector<size_t> chosen, rest;
                for (size_t i = 0; i < all.size(); ++i)
                    (std::binary_search(targets.begin(), targets.end(), all[i]) ? chosen : rest).push_back(i);
                const auto first = [&](int by, double share) {
                    const size_t n = std::min(size_t(std::lround(hard_ * share)), rest.size());
                    std::partial_sort(rest.begin(), rest.begin() + int64_t(n), rest.end(), [&](size_t a, size_t b) {
                        const float u = x[a * width_ + size_t(by)], v = x[b * width_ + size_t(by)];
                        return u != v ? u > v : a < b;
                    });
                    chosen.insert(chosen.end(), rest.begin(), rest.begin() + int64_t(n));
                    rest.erase(rest.begin(), rest.begin() + int64_t(n));
                    q.n_hard += int32_t(n);
                };
                if (asked.asked)
                    first(memory::in_like_sum, 0.4), first(memory::in_text, 0.12), first(memory::in_word, 0.18),
                        first(memory::in_fading_10, 0.3);
                else first(memory::in_fading_10, 0.7), first(memory::in_company, 0.3);
                for (size_t k = 0; k < std::min(size_t(random_), rest.size()); ++k) {
                    std::swap(rest[k], rest[k + size_t(rnd.below(rest.size() - k))]);
                    chosen.push_back(rest[k]);
                }
                for (size_t i : chosen) {
                    q.candidates.push_back(all[i]);
                    q.x.insert(q.x.end(), x.begin() + int64_t(i * width_), x.begin() + int64_t((i + 1) * width_));
                    q.dt.push_back(dt[i]);
                }
                p->queries.push_back(std::move(q));
            }
            // 3. The commit itself: touches of its files.
            const memory::Event& event = commits.event(e);
            const int64_t        now = t.index();
            memory.apply(event, [&](uint32_t s, bool, const float* in, float step) {
                const size_t id = size_t(memory.key(s) - relevance::Commits::key(0));
                if (id >= p->touches.size()) p->touches.resize(id + 1);
                p->touches[id].push_back({now, step, std::vector<float>(in, in + memory::n_inputs)});
            });
            t.apply(e, nullptr);
        }
    }
};

} // namespace train

#endif
