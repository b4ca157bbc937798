// quantize.hpp - the integer model of a float one, made in memory; `ssm quantize` writes it out.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_QUANTIZE_HPP
#define SSM_TOOLS_QUANTIZE_HPP

#include "safetensors_write.hpp"
#include "tool.hpp"

namespace quantize {

struct Settings {
    bool                     int4 = false;          // weights of the projections inside the layers
    bool                     act16 = false;         // activations that enter a projection
    bool                     row_exponents = false; // the state as 16-bit rows with exponents, i16rowexp
    bool                     gaps = true;           // S4D by zero-order hold: the tensors for time steps other than 1
    bool                     values = false;        // also hand back the float values behind each line
    bool                     snap = false;          // see snap()
    std::vector<std::string> keep;                  // projections that stay int8: whole names or their last parts
};

struct Tensor {
    std::string          name, dtype;
    std::vector<int64_t> shape;
    std::string          data; // little-endian
};

// What became of one tensor. Noise is the float value less what the integers stand for.
struct Line {
    std::string name, from, to; // dtypes; "I4" for packed codes
    int64_t     rows = 0, cols = 0;
    size_t      bytes = 0;                     // with its scales
    double      sqnr_db = 0.0, worst_db = 0.0; // infinite where nothing was lost
    int64_t     worst_row = 0;

    std::vector<double> values; // where asked for
};

struct Model {
    std::map<std::string, std::string> metadata;
    std::vector<Tensor>                tensors;
    std::vector<Line>                  lines;
    size_t                             bytes_before = 0, bytes_after = 0; // of tensors
};

// done; else a status of the program, and in `error` what stands behind the file's name in its message.
int make(ssm::Blob file, const Settings& settings, Model* out, std::string* error);

std::vector<TensorOut> tensors_out(const Model& m); // point into `m`
std::string            file_bytes(const Model& m);  // the whole file, in memory

// A model that reads tokens, as a finite automaton. State 0 is the initial one; the outputs are Q16.
struct Automaton {
    size_t               n_states = 0, n_tokens = 0, n_outputs = 0;
    std::vector<size_t>  next;    // [state][token]
    std::vector<int32_t> outputs; // [state][token][n_outputs], of the step from that state with that token
};
// Lists every state that tokens lead to. False, and why in `error`, if there are more than `most`.
bool explore(const std::string& file, size_t most, Automaton* out, std::string* error);

// For a Mamba-3 model of one layer that reads tokens, trained with snap = on: moves dt_bias, by less than a quarter,
// and B_bias, by at most 2^-19, so that every turn of nearly half a turn is one in the integer engine and what it adds
// to the state leaves it again; then proves that the model has few states. Results as those of make().
int snap(Model* m, std::string* error);

// One row of a projection. Codes go to `codes`, an int4 row's sub-scales (one for every 32 codes; n is a multiple of
// 32) to `subs`. Returns the row's scale, which a file can only hold below 1.
float int8_row(const double* w, size_t n, int8_t* codes);
float int4_row(const double* w, size_t n, int8_t* codes, int8_t* subs);

} // namespace quantize
#endif
