// next.hpp - which files does the next change touch? A model with one recurrent state a file, run over a change
// history.
//
// A touch of a file is one step of that file's stream, with dt = commits since its previous touch. A file's score is
// what the model says to a probe: a step from a copy of its state. The model's metadata names the features it was
// trained on. SPDX-License-Identifier: MIT
#pragma once
#include "../ssm.hpp"
#include "history.hpp"
#include "memory.hpp"
#include "tool.hpp"

#include <memory>
#include <string>
#include <vector>

namespace next {

constexpr int32_t batch = 256; // rows a call

// Follows a history and scores its files.
class HistoryRanker {
  public:
    virtual ~HistoryRanker() = default;
    const history::Tracker& tracker() const { return tracker_; }
    virtual bool            apply(const history::Event& e) = 0; // false: a history beyond what the model takes
    // `coming`: what is known of the next commit, its words, author and time; null: nothing.
    virtual std::vector<float> scores(const std::vector<int32_t>& candidates, const history::Event* coming) = 0;
    virtual size_t             state_bytes() const = 0; // of all that apply() writes to, beside the tracker
    virtual bool               learns() const { return false; } // from every commit it was asked about

  protected:
    history::Tracker tracker_;
};

// One state a file, and nothing else.
class Ranker : public HistoryRanker {
  public:
    // `model` outlives the ranker; `scratch` has room for `batch` rows. False, with a reason, if `features` (names
    // separated by commas) and the model do not fit together.
    bool open(const ssm::Model& model, const ssm::Scratch& scratch, const std::string& features, std::string* why);

    bool               apply(const history::Event& e) override;
    std::vector<float> scores(const std::vector<int32_t>& candidates, const history::Event* coming) override;
    size_t             state_bytes() const override; // states, and what the features need

  private:
    ssm::State state(int32_t id) { return {states_.data() + size_t(id) * stride_ / 4, stride_}; }

    const ssm::Model*       model_ = nullptr;
    ssm::Scratch            scratch_;
    std::vector<int>        features_;
    size_t                  stride_ = 0; // bytes of one state
    std::vector<uint32_t>   states_;     // one a file
    std::vector<float>      x_, dt_;
    std::vector<ssm::State> rows_;
    std::vector<int32_t>    ids_;
};

// The features named in `list`, as numbers; false with the name that is not known.
bool parse_features(const std::string& list, std::vector<int>* out, std::string* unknown);

// Replays a history by the protocol and measures the last part of it. `asked`: track "query", else "next".
struct Backtest {
    history::Metrics model, recency, decayed;
    int64_t          from = 0; // first commit measured
};
// `on_query`: the commit's index and the candidates, best first; may be null.
bool backtest(HistoryRanker* ranker, const std::vector<history::Event>& events, bool asked, double fraction,
              int32_t warm_up, Backtest* out,
              const std::function<void(int64_t, const std::vector<int32_t>&)>& on_query);

// For gittouch.py and the like: the commit's index, then the files, best first.
std::string ranks_line(int64_t i, const std::vector<int32_t>& order);

// A model of task "next" or "relevance" as a ranker; null, with a reason, if it is neither or broken. `model` and
// `scratch` (of `batch` rows) outlive it.
std::unique_ptr<HistoryRanker> open_ranker(const tool::OpenModel& m, const ssm::Scratch& scratch,
                                           memory::Limits limits, std::string* why);

} // namespace next

// `ssm eval MODEL DIR`: mean and per project figures over the .ev files of a folder.
struct HistoryEval {
    bool           asked = false;   // track "query"
    bool           learn = false;   // the head learns from each commit, once it is known, from the 50th on
    double         fraction = 0.2;  // of each history, measured
    const char*    ranks = nullptr; // a folder for the rankings, PROJECT.txt
    memory::Limits limits;
    ssm::Isa       isa = ssm::Isa::best;
};
int eval_history(const char* model_path, const char* dir, const HistoryEval& how);
