// next.cpp - the ranking of files by a model with one state a file, and its measure over past changes.
// SPDX-License-Identifier: MIT
#include "next.hpp"

#include "relevance.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include <dirent.h>

namespace next {

bool parse_features(const std::string& list, std::vector<int>* out, std::string* unknown) {
    out->clear();
    for (size_t i = 0; i <= list.size();) {
        const size_t      comma = std::min(list.find(',', i), list.size());
        const std::string name = list.substr(i, comma - i);
        int               k = 0;
        while (k < history::n_features && name != history::feature_names[k]) ++k;
        if (k == history::n_features) return *unknown = name, false;
        out->push_back(k);
        i = comma + 1;
    }
    return true;
}

bool Ranker::open(const ssm::Model& model, const ssm::Scratch& scratch, const std::string& features, std::string* why) {
    std::string unknown;
    if (!parse_features(features, &features_, &unknown))
        return *why = "metadata \"input\": \"" + tool::escape(unknown) + "\" is not a feature of change histories",
               false;
    if (int32_t(features_.size()) != model.config.d_input)
        return *why = "metadata \"input\": names " + std::to_string(features_.size()) + " numbers, d_input is " +
                      std::to_string(model.config.d_input),
               false;
    if (model.config.d_output != 1)
        return *why = "d_output is " + std::to_string(model.config.d_output) + ", expected 1 score", false;
    model_ = &model, scratch_ = scratch;
    stride_ = (ssm::state_bytes(model.config) + 7) / 8 * 8;
    return true;
}

size_t Ranker::state_bytes() const { return states_.size() * 4 + tracker_.files() * 8; } // 8: index of the last touch

bool Ranker::apply(const history::Event& e) {
    int32_t top = -1;
    for (const history::Op& op : e.ops) top = std::max(top, op.id);
    const size_t need = size_t(top + 1) * stride_ / 4;
    if (need > states_.size()) states_.resize(std::max(need, states_.size() + states_.size() / 2), 0);
    x_.clear(), dt_.clear(), ids_.clear(), rows_.clear();
    tracker_.apply(e, [&](int32_t id, const float* x, float dt) {
        for (int f : features_) x_.push_back(x[f]);
        dt_.push_back(dt);
        ids_.push_back(id);
    });
    for (int32_t id : ids_) rows_.push_back(state(id));
    return ssm::step_streams(*model_, rows_.data(), int32_t(rows_.size()), &scratch_, x_.data(), nullptr, dt_.data()) ==
               ssm::Status::ok ||
           rows_.empty();
}

std::vector<float> Ranker::scores(const std::vector<int32_t>& candidates, const history::Event*) {
    std::vector<float> y(candidates.size());
    x_.clear(), dt_.clear(), rows_.clear();
    for (int32_t id : candidates) {
        float x[history::n_features], dt;
        tracker_.probe(id, x, &dt);
        for (int f : features_) x_.push_back(x[f]);
        dt_.push_back(dt);
        rows_.push_back(state(id));
    }
    if (!rows_.empty() && ssm::score_streams(*model_, rows_.data(), int32_t(rows_.size()), &scratch_, x_.data(),
                                             y.data(), dt_.data()) != ssm::Status::ok)
        y.assign(y.size(), 0.0f); // cannot be: features are finite and in range
    return y;
}

bool backtest(HistoryRanker* ranker, const std::vector<history::Event>& events, bool asked, double fraction,
              int32_t warm_up, Backtest* out, const std::function<void(int64_t, const std::vector<int32_t>&)>& on_query) {
    *out = Backtest();
    fraction = std::round(fraction * 1e6) / 1e6; // 0.2 that came through a float is 0.2 again
    out->from = int64_t(double(events.size()) * (1 - fraction) + 1e-6);
    std::vector<int32_t> targets, order;
    for (const history::Event& e : events) {
        const history::Tracker& t = ranker->tracker();
        if ((t.index() >= out->from || ranker->learns()) && t.query(e, warm_up, &targets)) {
            const std::vector<int32_t> candidates = t.candidates();
            const std::vector<float>   scores = ranker->scores(candidates, asked ? &e : nullptr);
            if (t.index() < out->from) {
                if (!ranker->apply(e)) return false;
                continue;
            }
            std::vector<float>         recency, decayed;
            for (int32_t id : candidates)
                recency.push_back(float(t.recency(id))), decayed.push_back(float(t.decayed(id)));
            const int32_t n = int32_t(targets.size());
            out->recency.add(history::rank_targets(candidates, recency, targets), n);
            out->decayed.add(history::rank_targets(candidates, decayed, targets), n);
            out->model.add(history::rank_targets(candidates, scores, targets, &order), n);
            if (on_query) on_query(t.index(), order);
        }
        if (!ranker->apply(e)) return false;
    }
    return true;
}

std::string ranks_line(int64_t i, const std::vector<int32_t>& order) {
    std::string line = std::to_string(i);
    for (int32_t id : order) line += ' ', line += std::to_string(id);
    return line + '\n';
}

std::unique_ptr<HistoryRanker> open_ranker(const tool::OpenModel& m, const ssm::Scratch& scratch,
                                           memory::Limits limits, std::string* why) {
    std::string task, input;
    if (!m.metadata("task", &task)) return *why = "metadata \"task\": missing, expected next or relevance", nullptr;
    if (task != "next" && task != "relevance")
        return *why = "metadata \"task\": got \"" + tool::escape(task) + "\", expected next or relevance", nullptr;
    if (!m.metadata("input", &input))
        return *why = "metadata \"input\": missing, expected the names of its inputs", nullptr;
    if (task == "relevance") return relevance::open_ranker(m.model, scratch, input, limits, why);
    auto ranker = std::make_unique<Ranker>();
    if (!ranker->open(m.model, scratch, input, why)) return nullptr;
    return ranker;
}

} // namespace next

int eval_history(const char* model_path, const char* dir, const HistoryEval& how) {
    using namespace tool;
    OpenModel m;
    int       status = open_model("eval", model_path, how.isa, 0, next::batch, &m);
    if (status != done) return status;
    ssm::Scratch scratch;
    if (ssm::make_scratch(&scratch, m.model, next::batch, &m.arena) != ssm::Status::ok)
        return fail(bad_file, "eval", escape(model_path) + ": no room for its scratch");
    std::string why;

    std::vector<std::string> names;
    if (DIR* d = ::opendir(dir); d != nullptr) {
        while (const dirent* e = ::readdir(d)) {
            const std::string name = e->d_name;
            if (name.size() > 3 && name.substr(name.size() - 3) == ".ev") names.push_back(name);
        }
        ::closedir(d);
    } else return fail(io_error, "eval", escape(dir) + ": cannot be opened as a folder");
    if (names.empty()) return fail(io_error, "eval", escape(dir) + ": holds no .ev file");
    std::sort(names.begin(), names.end());

    Output                      out(1);
    size_t                      bytes = 0;
    std::vector<next::Backtest> all;
    const struct {
        const char*      name;
        history::Metrics next::Backtest::*of;
    } rows[] = {{"model", &next::Backtest::model},
                {"decayed", &next::Backtest::decayed},
                {"recency", &next::Backtest::recency}};
    const auto print = [&](const std::string& project, const char* what, const history::Metrics& v) {
        char line[256];
        std::snprintf(line, sizeof line, "%s %s: MRR %.4f recall@10 %.4f NDCG@10 %.4f hit@1 %.4f queries %lld\n",
                      project.c_str(), what, v.mrr, v.recall10, v.ndcg10, v.hit1, static_cast<long long>(v.queries));
        out.write(line);
    };
    for (const std::string& name : names) {
        std::vector<history::Event> events;
        if (!history::read_file(std::string(dir) + "/" + name, &events, &why))
            return fail(io_error, "eval", escape(name) + ": " + escape(why, 300));
        const std::unique_ptr<next::HistoryRanker> ranker =
            how.learn ? relevance::open_learner("eval", model_path, how.isa, how.limits, &why)
                      : next::open_ranker(m, scratch, how.limits, &why);
        next::Backtest                             b;
        if (ranker == nullptr) return fail(bad_file, "eval", escape(model_path) + ": " + why);
        std::string lines;
        const auto  keep = [&](int64_t i, const std::vector<int32_t>& order) { lines += next::ranks_line(i, order); };
        if (!next::backtest(ranker.get(), events, how.asked, how.fraction, history::warm_up, &b,
                            how.ranks != nullptr ? keep : std::function<void(int64_t, const std::vector<int32_t>&)>()))
            return fail(io_error, "eval", escape(name) + ": a step was refused");
        all.push_back(b);
        bytes = std::max(bytes, ranker->state_bytes());
        const std::string file = how.ranks == nullptr ? "" : std::string(how.ranks) + "/" + name.substr(0, name.size() - 3) + ".txt";
        if (how.ranks != nullptr && (status = save_file("eval", file.c_str(), lines)) != done) return status;
        for (const auto& r : rows) print(escape(name.substr(0, name.size() - 3)), r.name, (b.*r.of).mean());
    }
    for (const auto& r : rows) {
        history::Metrics sum;
        for (const next::Backtest& b : all) {
            const history::Metrics v = (b.*r.of).mean();
            sum.mrr += v.mrr, sum.recall10 += v.recall10, sum.ndcg10 += v.ndcg10, sum.hit1 += v.hit1,
                sum.queries += v.queries;
        }
        const double n = double(all.size());
        print("MEAN", r.name, {sum.mrr / n, sum.recall10 / n, sum.ndcg10 / n, sum.hit1 / n, sum.queries});
    }
    out.write("state: " + std::to_string(bytes) + " bytes\n");
    return finish("eval", &out);
}
