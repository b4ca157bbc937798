// score.hpp - the record protocol of `ssm score`: text and JSON lines in, output vectors out.
//
// No file and no descriptor in here, so that a test or a fuzzer can feed it lines.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_SCORE_HPP
#define SSM_TOOLS_SCORE_HPP

#include "tool.hpp"

#include <functional>

namespace tool {

class Gpu;

// One stream. Each record is checked as a whole before the model sees any of it: a bad one changes nothing.
class Scorer {
  public:
    // All must outlive the scorer. Answers go to `out`, complaints about text records to `err` in the name of `verb`.
    Scorer(const ssm::Model& model, ssm::State* state, ssm::Scratch* scratch, Output* out, Output* err,
           const char* verb = "score");

    // One line without its end. False: it was bad, and one line says so.
    bool line(std::string_view text, uint64_t number);
    // A line beyond max_line_bytes, of which `start` is the beginning. Always false.
    bool too_long(std::string_view start, uint64_t number);
    // One raw frame, already converted; `print`: whether its output is wanted. False as above.
    bool frame(const float* x, uint64_t number, bool print, float dt);
    // The output of the last good frame, if there was one.
    void print_last();
    // Called with the output of every event of a record (not of candidates), printed or not.
    std::function<void(const float* y)> see;
    Gpu* gpu = nullptr; // where the stream is, slot 0; null: the state of the constructor
    // Says what is wrong with a frame or, for JSON, answers with an error. Always false.
    bool bad(const char* unit, uint64_t number, const std::string& what);

  private:
    struct Request; // a JSON record
    bool text_record(std::string_view text, uint64_t number);
    bool json_record(std::string_view text, uint64_t number);
    bool parse(std::string_view text, Request* out, std::string* why);
    bool numbers(ssm::json::Reader* r, size_t limit, const std::string& where, std::string* why);
    bool run_json(const Request& q, std::string* why);
    void print_row(const float* y, bool json);
    bool run(bool candidate, float dt);
    ssm::Status advance(const float* x, float dt); // into y_
    ssm::Status score(const float* x, int32_t n, const float* dt);
    void        restart();
    bool good(float v) const; // a number that may stand in a record
    // The inputs of events first.. of the record at hand, n of them: x_'s own, or rows of the embedding.
    const float* inputs(size_t first, size_t n);

    const ssm::Model&  model_;
    ssm::State*        state_;
    ssm::Scratch*      scratch_;
    Output *           out_, *err_;
    const char*        verb_;
    size_t             width_;      // numbers of an event: d_input, or one token id
    std::vector<float> rows_;       // of the embedding
    std::vector<float> x_, y_, dt_; // x_: numbers of the record at hand; its size is bounded by the length of a line
    std::string        line_;
    bool               any_frame_ = false;
};

} // namespace tool
#endif
