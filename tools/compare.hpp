// compare.hpp - what two models differ in: the numbers their tensors stand for, and their outputs over a stream.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_COMPARE_HPP
#define SSM_TOOLS_COMPARE_HPP

#include "../ssm.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace compare {

// The numbers of a tensor, by the name of the float one without "backbone.".
struct Values {
    int64_t             rows = 0, cols = 0;
    std::vector<double> v;
};
using Table = std::map<std::string, Values>;

bool is_integer_model(const ssm::Index& index);
// What the tensors of an integer model stand for.
Table integer_values(const ssm::Index& index);
// The tensors of a float model as they are, or `beside_integers`: those numbers that an integer model of it would hold
// (a and b in place of continuous parameters). done; else a status of the program and what is wrong.
int float_values(const ssm::Index& index, ssm::Blob file, bool beside_integers, Table* out, std::string* error);

// Outputs of two models over the same events, step after step.
class Drift {
  public:
    explicit Drift(size_t d_output) : d_output_(d_output) {}
    void add(const float* a, const float* b);

    struct Row {
        uint64_t steps = 0;
        double   sqnr_db = 0.0, window_db = 0.0; // of all outputs so far, and of those since the row before
        double   largest = 0.0;                  // difference so far
        double   agree = 0.0;                    // share of steps whose largest output is the same one
    };
    void                    end();                           // a row for the last step, if it has none
    const std::vector<Row>& table() const { return table_; } // at 1, 10, 100, ... steps and at the end
    const std::vector<Row>& curve() const { return curve_; } // at steps closer together, for a plot
    uint64_t                steps() const { return steps_; }

  private:
    Row              row() const;
    size_t           d_output_;
    uint64_t         steps_ = 0, agree_ = 0, next_row_ = 1, next_point_ = 1;
    double           signal_ = 0, noise_ = 0, window_signal_ = 0, window_noise_ = 0, largest_ = 0;
    std::vector<Row> table_, curve_;
};

} // namespace compare
#endif
