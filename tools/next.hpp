// next.hpp - which files does the next change touch? A model with one recurrent state a file, run over a change
// history.
//
// A touch of a file is one step of that file's stream, with dt = commits since its previous touch. A file's score is
// what the model says to a probe: a step from a copy of its state. The model's metadata names the features it was
// trained on. SPDX-License-Identifier: MIT
#pragma once
#include "../ssm.hpp"
#include "history.hpp"

#include <string>
#include <vector>

namespace next {

constexpr int32_t batch = 256; // rows a call

class Ranker {
  public:
    // `model` outlives the ranker; `scratch` has room for `batch` rows. False, with a reason, if `features` (names
    // separated by commas) and the model do not fit together.
    bool open(const ssm::Model& model, const ssm::Scratch& scratch, const std::string& features, std::string* why);

    const history::Tracker& tracker() const { return tracker_; }
    bool                    apply(const history::Event& e); // false: a history beyond what the model takes
    std::vector<float>      scores(const std::vector<int32_t>& candidates);
    size_t                  bytes_per_file() const; // state, and what the features need

  private:
    ssm::State state(int32_t id) { return {states_.data() + size_t(id) * stride_ / 4, stride_}; }

    const ssm::Model*       model_ = nullptr;
    ssm::Scratch            scratch_;
    history::Tracker        tracker_;
    std::vector<int>        features_;
    size_t                  stride_ = 0; // bytes of one state
    std::vector<uint32_t>   states_;     // one a file
    std::vector<float>      x_, dt_;
    std::vector<ssm::State> rows_;
    std::vector<int32_t>    ids_;
};

// The features named in `list`, as numbers; false with the name that is not known.
bool parse_features(const std::string& list, std::vector<int>* out, std::string* unknown);

// Replays a history by the protocol (track "next") and measures the last part of it.
struct Backtest {
    history::Metrics model, recency, decayed;
    int64_t          from = 0; // first commit measured
};
// `on_query`: the commit's index and the candidates, best first; may be null.
bool backtest(Ranker* ranker, const std::vector<history::Event>& events, double fraction, int32_t warm_up,
              Backtest* out, const std::function<void(int64_t, const std::vector<int32_t>&)>& on_query);

} // namespace next

// `ssm eval MODEL DIR --track next`: mean and per project figures over the .ev files of a folder.
int eval_next(const char* model_path, const char* dir, double fraction, ssm::Isa isa);
