// train_qat.hpp - training that sees the weights as `ssm quantize` will round them, and starts from a model file.
// SPDX-License-Identifier: MIT
//
// The optimiser keeps float weights. Every step runs on a copy whose projections hold what their codes stand for, made
// by the converter's own functions; what enters a projection is rounded too, see round_rows() in s4d_net.hpp. The
// gradient by the rounded numbers is taken for that by the float ones (straight through). State and decay have the bits
// they need in the integer engine and stay as they are.

#ifndef TRAIN_QAT_HPP
#define TRAIN_QAT_HPP

#include "quantize.hpp"
#include "s4d_net.hpp"

namespace train {

// Rounds the projections in `params`, which `tensors` describe: in a layer to int8 (bits = 8) or int4 in groups of 32
// (bits = 4), but for the last `gates` rows of an in_proj; others to int8. bits = 0: nothing.
template <class Real>
void round_weights(const std::vector<s4d::Tensor>& tensors, int bits, int64_t gates, std::vector<Real>& params) {
    static const char* const inner[] = {"in_proj", "out_proj", "fc1", "fc2", "output_linear.0"};
    static const char* const outer[] = {"embedding", "input_proj", "encoder", "decoder", "head"};
    std::vector<double>      row;
    std::vector<int8_t>      codes, subs;
    for (const s4d::Tensor& t : tensors) {
        const auto is = [&](const std::string& name) {
            const std::string end = "." + name + ".weight", whole = "." + t.name;
            return whole.size() >= end.size() && whole.compare(whole.size() - end.size(), end.size(), end) == 0;
        };
        const bool inside = std::any_of(std::begin(inner), std::end(inner), is);
        if (bits == 0 || (!inside && !std::any_of(std::begin(outer), std::end(outer), is))) continue;
        const auto   rows = int64_t(t.shape[0]), tail = is("in_proj") ? gates : 0;
        const size_t cols = size_t(t.count / rows), groups = (cols + 31) / 32;
        row.assign(groups * 32, 0.0), codes.resize(row.size()), subs.resize(groups);
        for (int64_t o = 0; o < rows; ++o) {
            const bool four = bits == 4 && inside && o < rows - tail;
            Real*      w = params.data() + t.offset + o * int64_t(cols);
            std::copy(w, w + cols, row.begin());
            if (!std::all_of(w, w + cols, [](Real v) { return std::isfinite(v); })) continue;
            const double scale = double(four ? quantize::int4_row(row.data(), row.size(), codes.data(), subs.data())
                                             : quantize::int8_row(row.data(), cols, codes.data()));
            for (size_t k = 0; k < cols; ++k) w[k] = Real(codes[k] * (four ? scale * subs[k / 32] : scale));
        }
    }
}

} // namespace train

#endif
