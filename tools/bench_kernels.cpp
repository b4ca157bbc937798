// bench_kernels.cpp - the kernels of a back-end at a model's sizes, and what a step costs at least.
// SPDX-License-Identifier: MIT
//
// What a kernel takes is private to the implementation of the library; no code of this copy is used.
#define SSM_STATIC
#define SSM_IMPLEMENTATION
#include "../ssm.hpp"

#include "bench.hpp"

#include <algorithm>
#include <cstring>

namespace bench {
namespace {
double matrix_bytes(const ssm::Matrix& w) {
    const double row = w.cols, groups = (w.cols + 31) / 32;
    if (w.dtype == ssm::DType::i8 || w.dtype == ssm::DType::i4)
        return w.rows * 4.0 + (w.rows - w.rows4) * row + w.rows4 * groups * 17;
    return static_cast<double>(w.rows) * static_cast<double>(w.cols) * (w.dtype == ssm::DType::f32 ? 4.0 : 2.0);
}
double macs_of(const ssm::Matrix& w) { return static_cast<double>(w.rows) * static_cast<double>(w.cols); }
class Kernels {
  public:
    Kernels(const tool::OpenModel& m, const Machine& machine, double seconds, std::vector<Row>* rows)
        : m_(m), kernels_(*m.model.kernels), machine_(machine), seconds_(seconds), rows_(*rows) {}
    void kernels();

  private:
    void mamba_kernels();
    void integer_kernels();
    // The recurrence of one mixer; the row has all but its Config, kernels and state.
    template <class T> void recurrence(ssm::Row<T> row, T* state) {
        const ssm::Config& c = m_.config;
        const double       size = static_cast<double>(ssm::detail::parts_of(c).end) * 4;
        row.c = &c, row.kernels = &kernels_, row.state = state;
        const auto cell = c.arch == ssm::Arch::mamba1   ? row.engine().mamba1
                          : c.arch == ssm::Arch::mamba2 ? row.engine().mamba2
                                                        : row.engine().mamba3;
        for (const bool moves : {true, false}) {
            row.next = moves ? state : nullptr;
            add(moves ? "recurrence, a step" : "recurrence, a candidate", 1, size / 4 * 2 * std::max(c.mimo_rank, 1),
                moves ? 2 * size : size, size, [&] { cell(row); });
        }
    }
    void add(const std::string& name, double n, double macs, double bytes, double working_set,
             const std::function<void()>& f) {
        // The machine's multiply-adds are float ones: integer work is held against its bytes alone.
        const double least =
            macs > 0 ? machine_.least(ssm::is_integer(m_.config) ? 0.0 : macs, bytes, working_set) : 0.0;
        rows_.push_back({name, measure(seconds_, f), n, macs, bytes, least});
    }
    const tool::OpenModel& m_;
    ssm::Kernels           kernels_;
    Machine                machine_;
    double                 seconds_;
    Noise                  noise;
    std::vector<Row>&      rows_;
};

// One mixer of a Mamba model, and what stands around it.
void Kernels::mamba_kernels() {
    const ssm::Config&            c = m_.config;
    const ssm::MambaLayer<float>& layer = m_.model.mamba[0];
    const int32_t                 n = 64, d = c.d_model, d_stride = int32_t(ssm::detail::padded(d));
    const int32_t                 p_stride = int32_t(ssm::detail::row_p(c)), o_stride = int32_t(ssm::detail::row_o(c));
    std::vector<float>            x = noise(size_t(n) * size_t(d_stride)), p = noise(size_t(n) * size_t(p_stride));
    std::vector<float>            o = noise(size_t(n) * size_t(o_stride)), h(ssm::detail::parts_of(c).end),
                       work(ssm::detail::one_row(c));
    const auto matmul = [&](const char* name, const ssm::Matrix& w, int32_t rows, float* y, int32_t y_stride,
                            const float* from, int32_t from_stride) {
        const double macs = macs_of(w) * rows;
        add(std::string("matmul ") + name + " " + std::to_string(w.rows) + "x" + std::to_string(w.cols) + ", " +
                std::to_string(rows) + (rows == 1 ? " row" : " rows"),
            rows, macs, matrix_bytes(w), matrix_bytes(w), [&, rows, y, y_stride, from, from_stride] {
                kernels_.matmul(y, y_stride, w, nullptr, from, from_stride, rows);
            });
    };
    for (int32_t rows : {1, n}) {
        std::vector<float> y(size_t(n) * size_t(std::max(p_stride, d_stride)));
        matmul("in_proj", layer.in_proj, rows, y.data(), p_stride, x.data(), d_stride);
        matmul("out_proj", layer.out_proj, rows, y.data(), d_stride, o.data(), o_stride);
    }
    ssm::Row<float> row;
    row.layer = &layer, row.p = p.data(), row.y = o.data(), row.work = work.data(), row.dt = 1.0f;
    recurrence(row, h.data());
    const ssm::EngineKernels<float>& engine = kernels_;
    add("rms norm " + std::to_string(d), 1, 0, 0, 0,
        [&] { engine.rms_norm(o.data(), x.data(), m_.model.norm_f_weight, d, 24); });
}

// Projections with everything around them, and the recurrence of one layer of an integer model.
void Kernels::integer_kernels() {
    const ssm::Config&         c = m_.config;
    const int32_t              n = 64, stride = int32_t(ssm::detail::code_bytes(c));
    std::vector<int32_t>       x(size_t(n) * ssm::max_width), y, scales(size_t(n) * 2), h(ssm::detail::parts_of(c).end);
    std::vector<unsigned char> codes(size_t(n) * size_t(stride));
    const std::vector<float>   values = noise(x.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = ssm::to_q16(values[i]);
    const auto project = [&](const char* name, const ssm::Matrix& w, int32_t rows) {
        y.resize(size_t(rows) * size_t(w.rows));
        add(std::string(w.rows4 > 0 ? "int4 " : "int8 ") + name + " " + std::to_string(w.rows) + "x" +
                std::to_string(w.cols) + ", " + std::to_string(rows) + (rows == 1 ? " row" : " rows"),
            rows, macs_of(w) * rows, matrix_bytes(w), matrix_bytes(w), [&, rows] {
                for (int32_t i = 0; i < rows; ++i)
                    kernels_.quantize(&codes[size_t(i) * size_t(stride)], &scales[size_t(i) * 2],
                                      &x[size_t(i) * size_t(w.cols)], w.cols, (w.cols + 31) / 32 * 32, c.act_bits);
                kernels_.matmul_q(w, {y.data(), w.rows, codes.data(), stride, scales.data()}, rows, c.act_bits);
            });
    };
    if (c.arch == ssm::Arch::s4d) {
        const ssm::S4dLayer<int32_t>& layer = m_.model.s4d_q[0];
        const int32_t                 width = int32_t(ssm::detail::padded(c.d_model));
        const double                  modes = static_cast<double>(ssm::detail::modes(c));
        for (int32_t rows : {1, n}) project("mix", layer.mix, rows);
        std::vector<int32_t> s(size_t(n) * size_t(width));
        for (int32_t T : {1, n}) {
            const ssm::S4dScanQ scan{layer.a,  layer.b,   layer.C,       layer.C_scale, layer.D,
                                     h.data(), x.data(),  h.data(),      s.data(),      width,
                                     T,        c.d_model, c.d_state / 2, c.b_frac - 9,  c.clip_q25};
            add("scan " + std::to_string(T) + (T == 1 ? " step" : " steps"), T, 8 * modes * T,
                modes * 20 + modes * 16 * T, modes * 28, [&] { kernels_.s4d_scan_q(scan); });
        }
        return;
    }
    const ssm::MambaLayer<int32_t>& layer = m_.model.mamba_q[0];
    for (int32_t rows : {1, n}) project("in_proj", layer.in_proj, rows), project("out_proj", layer.out_proj, rows);
    std::vector<int32_t> out(ssm::detail::row_o(c)), work(ssm::detail::one_row(c));
    ssm::Row<int32_t>    row;
    row.layer = &layer, row.p = x.data(), row.y = out.data(), row.work = work.data(), row.dt = 65536;
    recurrence(row, h.data());
}

void Kernels::kernels() {
    const ssm::Config& c = m_.config;
    if (ssm::is_integer(c)) return integer_kernels();
    if (c.arch != ssm::Arch::s4d) return mamba_kernels();
    const ssm::EngineKernels<float>& engine = kernels_;
    const int32_t H = c.d_model, stride = int32_t(ssm::detail::padded(H)), blocks = stride / 8, modes = c.d_state / 2;
    const int32_t n = 64;
    const size_t  width = size_t(std::max(std::max(stride, c.d_input), c.d_output));

    // The mixing matrix of a layer, in the dtype of the file's.
    const ssm::Entry* entry = ssm::find_tensor(m_.index, "s4_layers.0.output_linear.0.weight");
    ssm::Matrix       mix;
    mix.rows = 2 * H, mix.cols = H;
    if (entry != nullptr && std::strcmp(ssm::dtype_name(entry->dtype), "F16") == 0) mix.dtype = ssm::DType::f16;
    if (entry != nullptr && std::strcmp(ssm::dtype_name(entry->dtype), "BF16") == 0) mix.dtype = ssm::DType::bf16;
    std::vector<float> weights = noise(size_t(2 * H) * size_t(H), 0.1f);
    if (mix.dtype != ssm::DType::f32)
        std::memset(weights.data(), 0x2e, weights.size() * 4); // small numbers in either format
    mix.data = reinterpret_cast<const unsigned char*>(weights.data());

    const std::vector<float> x = noise(size_t(n) * width), bias = noise(size_t(2 * stride));
    std::vector<float>       y(size_t(n) * 2 * std::max(width, size_t(stride)));
    const auto               matmul = [&](const char* name, const ssm::Matrix& w, int32_t rows) {
        const double macs = static_cast<double>(w.rows) * w.cols * rows;
        add(std::string("matmul ") + name + " " + std::to_string(w.rows) + "x" + std::to_string(w.cols) + ", " +
                              std::to_string(rows) + (rows == 1 ? " row" : " rows"),
                          rows, macs, matrix_bytes(w), matrix_bytes(w),
                          [&, rows] { kernels_.matmul(y.data(), w.rows, w, nullptr, x.data(), w.cols, rows); });
    };
    matmul("encoder", m_.model.encoder, 1);
    matmul("mix", mix, 1);
    matmul("mix", mix, n);
    matmul("decoder", m_.model.decoder, 1);

    const size_t             all = size_t(blocks) * size_t(modes);
    std::vector<float>       ab = noise(all * 32, 0.5f), h(all * 16), s(size_t(n) * size_t(stride));
    const std::vector<float> cc = noise(all * 16), D = noise(size_t(stride)), u = noise(size_t(n) * size_t(stride));
    for (int32_t T : {1, n}) {
        const double modes8 = static_cast<double>(all) * 8;
        add("scan " + std::to_string(T) + (T == 1 ? " step" : " steps"), T, 8 * modes8 * T,
            modes8 * 24 + modes8 * 16 * T, modes8 * 32, [&, T] {
                kernels_.s4d_scan({ab.data(), cc.data(), D.data(), h.data(), u.data(), h.data(), s.data(), stride, T,
                                   blocks, modes, 50.0f});
            });
    }
    const std::vector<float> rho = noise(all * 8, 0.01f), gain = noise(all * 16);
    std::vector<double>      turns(all * 8);
    for (double& t : turns) t = static_cast<double>(noise(1)[0]);
    add("discretize", 1, 0, 0, 0,
        [&] { kernels_.s4d_discretize(ab.data(), rho.data(), turns.data(), gain.data(), 1.5f, c.disc, int32_t(all)); });
    add("gelu " + std::to_string(H), 1, 0, 0, 0, [&] { engine.gelu(y.data(), x.data(), H); });
    std::vector<float> r(size_t(stride), 0.0f);
    add("glu " + std::to_string(H), 1, 0, 0, 0, [&] { engine.glu(r.data(), bias.data(), H); });
    add("layer norm " + std::to_string(H), 1, 0, 0, 0,
        [&] { engine.layer_norm(y.data(), x.data(), bias.data(), bias.data(), H); });
}

} // namespace

Work work_of(const ssm::Model& m, int32_t n_inputs) {
    const ssm::Config& c = m.config;
    const double       H = c.d_model, n = n_inputs, layers = c.n_layers;
    Work               w;
    double             weights = 0;
    if (c.arch == ssm::Arch::s4d) {
        const double modes = static_cast<double>(ssm::detail::modes(c)), matrix = 2 * H * H;
        const double mix = m.s4d_q != nullptr                   ? matrix_bytes(m.s4d_q[0].mix)
                           : m.encoder.dtype == ssm::DType::f32 ? matrix * 4
                                                                : matrix * 2;
        w.macs = n * (H * c.d_input + layers * (2 * H * H + 8 * modes) + H * c.d_output);
        weights = matrix_bytes(m.encoder) + matrix_bytes(m.decoder) + layers * (mix + modes * 6 * 4);
        w.bytes = weights + n * layers * modes * 4 * 4; // the state, read and written
        return w;
    }
    const double states = static_cast<double>(ssm::state_bytes(c));
    for (int32_t l = 0; l < c.n_layers; ++l) {
        const auto each = [&w, &weights](const auto& a) {
            for (const ssm::Matrix* x : {&a.in_proj, &a.out_proj, &a.x_proj, &a.dt_proj, &a.fc1, &a.fc2})
                w.macs += macs_of(*x), weights += matrix_bytes(*x);
        };
        m.mamba_q != nullptr ? each(m.mamba_q[l]) : each(m.mamba[l]);
    }
    w.macs += macs_of(m.decoder), weights += matrix_bytes(m.decoder);
    if (c.input == ssm::Input::features) w.macs += macs_of(m.encoder), weights += matrix_bytes(m.encoder);
    w.macs += states / 4 * 2 * std::max(c.mimo_rank, 1); // update and read-out of every number of h
    w.macs *= n;
    w.bytes = weights + n * states * 2;
    return w;
}

void measure_kernels(const tool::OpenModel& m, const Machine& machine, double seconds, std::vector<Row>* rows) {
    Kernels(m, machine, seconds, rows).kernels();
}

} // namespace bench
