// s4d.cpp - S4D against golden vectors, against its own convolution and chunked forms, and its two spellings.
// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <complex>
#include <limits>

using namespace test;
using complex = std::complex<double>;

namespace {

// Parameters of layer 0 as the formulas have them.
struct Modes {
    int64_t              H = 0, n = 0;
    std::vector<complex> a, b, C;
    std::vector<double>  D;
    explicit Modes(const Golden& g) {
        int64_t dims[ssm::max_rank];
        ssm::shape_of(*ssm::find_tensor(g.index, "s4_layers.0.kernel.A_imag"), dims);
        H = dims[0], n = dims[1];
        ssm::Config c;
        ssm::Blob   blob{g.bytes.data(), g.bytes.size()};
        Bytes       memory(ssm::index_bytes(blob));
        REQUIRE(ssm::inspect(&c, blob, memory.data(), memory.size()) == ssm::Status::ok);
        const auto dt = g.tensor("s4_layers.0.kernel.log_dt"), re = g.tensor("s4_layers.0.kernel.log_A_real"),
                   im = g.tensor("s4_layers.0.kernel.A_imag"), cc = g.tensor("s4_layers.0.kernel.C");
        D = g.tensor("s4_layers.0.D");
        for (int64_t h = 0; h < H; ++h)
            for (int64_t j = 0; j < n; ++j) {
                const size_t  k = size_t(h * n + j);
                const double  step = std::exp(dt[size_t(h)]);
                const complex A(-std::exp(re[k]), im[k]), z = step * A;
                a.push_back(c.disc == ssm::Disc::zoh ? std::exp(z) : (1.0 + z / 2.0) / (1.0 - z / 2.0));
                b.push_back(c.disc == ssm::Disc::zoh ? (std::exp(z) - 1.0) / A : step / (1.0 - z / 2.0));
                C.push_back({cc[2 * k], cc[2 * k + 1]});
            }
    }
    double kernel(int64_t h, int64_t l) const { // K_h[l] = 2 Re sum_j C b a^l
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) {
            const size_t k = size_t(h * n + j);
            sum += 2 * std::real(C[k] * b[k] * std::pow(a[k], double(l)));
        }
        return sum;
    }
    std::vector<double> recurrence(int64_t h, const std::vector<double>& u, complex* x) const {
        std::vector<double> y;
        for (double v : u) {
            double sum = 0;
            for (int64_t j = 0; j < n; ++j) {
                const size_t k = size_t(h * n + j);
                x[j] = a[k] * x[j] + b[k] * v;
                sum += 2 * std::real(C[k] * x[j]);
            }
            y.push_back(sum + D[size_t(h)] * v);
        }
        return y;
    }
};

// The library's SSM of layer 0 alone, by its kernels as load() prepared them: an encoder that is a delay-free wire is
// not at hand, so the state is read instead. Returns channel h's states after each of u's steps.
std::vector<double> inputs(size_t count) {
    std::vector<double> u;
    for (float f : random_inputs(count, 99)) u.push_back(double(f));
    return u;
}

} // namespace

TEST_CASE("N-08 golden files: outputs and final states on every back-end, equal bits between them") {
    for (const char* name : golden_files) {
        const Golden       g(golden(name));
        const auto         x = g.floats("test.input"), first = random_inputs(0);
        const auto         want = g.tensor("test.output");
        std::vector<float> reference;
        for (ssm::Isa isa : all_back_ends()) {
            Loaded             m(g.bytes, 16, isa);
            const ssm::Config& c = m.config;
            const size_t       L = x.size() / size_t(c.d_input);
            std::vector<float> all;
            double             worst = 0, size = 1;
            for (size_t t = 0; t < L; ++t) {
                std::vector<float> y(size_t(c.d_output));
                REQUIRE(ssm::step(m.model, &m.state, &m.scratch, &x[t * size_t(c.d_input)], y.data()) ==
                        ssm::Status::ok);
                all.insert(all.end(), y.begin(), y.end());
                for (size_t k = 0; k < y.size(); ++k) {
                    if (c.pool != ssm::Pool::none && t + 1 != L) continue;
                    const double w = want[c.pool == ssm::Pool::none ? t * y.size() + k : k];
                    worst = std::max(worst, std::fabs(double(y[k]) - w));
                    size = std::max(size, std::fabs(w));
                }
            }
            CHECK_MESSAGE(worst <= 1e-4 * size, name, " ", ssm::isa_name(m.model), " ", worst);
            CHECK(ssm::clipped(m.model, m.state) == (std::string(name).substr(0, 2) == "08"));
            CHECK(ssm::steps_of(m.model, m.state) == L);

            // The state after the last step. Layout: header, running mean, then per layer [block of 8][mode][re im][8].
            const float* f = reinterpret_cast<const float*>(m.state.data) + 4 +
                             (c.pool == ssm::Pool::mean ? (c.d_model + 7) / 8 * 8 : 0);
            const int n = c.d_state / 2, blocks = (c.d_model + 7) / 8;
            for (int l = 0; l < c.n_layers; ++l, f += blocks * n * 16) {
                const auto state = g.tensor("test.layer" + std::to_string(l) + ".state");
                double     off = 0, largest = 1;
                for (int h = 0; h < c.d_model; ++h)
                    for (int j = 0; j < n; ++j)
                        for (int part = 0; part < 2; ++part) {
                            const double w = state[size_t((h * n + j) * 2 + part)];
                            off = std::max(off, std::fabs(double(f[((h / 8 * n + j) * 2 + part) * 8 + h % 8]) - w));
                            largest = std::max(largest, std::fabs(w));
                        }
                CHECK_MESSAGE(off <= 1e-4 * largest, name, " layer ", l, " state ", off);
            }
            if (reference.empty()) reference = all;
            else CHECK_MESSAGE(same_bits(reference, all), name, " ", ssm::isa_name(m.model));
        }
    }
}

TEST_CASE("a changed expected value or weight is noticed") {
    Golden     g(golden(golden_files[0]));
    const auto x = g.floats("test.input");
    const auto run = [&](const Bytes& file) {
        Loaded             m(file);
        std::vector<float> y(size_t(m.config.d_output));
        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), int32_t(x.size() / size_t(m.config.d_input)),
                             y.data()) == ssm::Status::ok);
        return y;
    };
    const auto before = run(g.bytes);
    for (const char* name : {"s4_layers.0.kernel.C", "s4_layers.0.kernel.log_dt", "s4_layers.0.kernel.A_imag",
                             "s4_layers.0.D", "norms.0.bias", "decoder.weight"}) {
        Bytes             changed = g.bytes;
        const ssm::Entry* e = ssm::find_tensor(g.index, name);
        const size_t      at = size_t(g.index.data - g.bytes.data()) + size_t(e->begin);
        float             v;
        std::memcpy(&v, &changed[at], 4);
        v += 0.25f;
        std::memcpy(&changed[at], &v, 4);
        const auto after = run(changed);
        double     moved = 0;
        for (size_t k = 0; k < before.size(); ++k)
            moved = std::max(moved, std::fabs(double(before[k]) - double(after[k])));
        CHECK_MESSAGE(moved > 1e-4, name);
    }
}

TEST_CASE("recurrence = convolution") {
    for (const char* name : {golden_files[0], golden_files[1], golden_files[2]}) {
        const Golden g(golden(name));
        const Modes  m(g);
        const auto   u = inputs(64);
        for (int64_t h = 0; h < m.H; ++h) {
            std::vector<complex> x(static_cast<size_t>(m.n));
            const auto           y = m.recurrence(h, u, x.data());
            for (size_t t = 0; t < u.size(); ++t) {
                double sum = m.D[size_t(h)] * u[t];
                for (size_t l = 0; l <= t; ++l) sum += m.kernel(h, int64_t(l)) * u[t - l];
                REQUIRE(std::fabs(sum - y[t]) < 1e-12);
            }
        }
        const auto   K = g.tensor("test.layer0.kernel"); // and the golden kernel
        const size_t L = K.size() / size_t(m.H);
        for (int64_t h = 0; h < m.H; ++h)
            for (size_t l = 0; l < L; ++l) REQUIRE(std::fabs(m.kernel(h, int64_t(l)) - K[size_t(h) * L + l]) < 1e-9);
    }
}

TEST_CASE("recurrence = chunked form") {
    const Golden g(golden(golden_files[2]));
    const Modes  m(g);
    const auto   u = inputs(96);
    for (int64_t h = 0; h < m.H; ++h)
        for (size_t Q : {size_t(16), size_t(32), size_t(48)}) {
            std::vector<complex> x(static_cast<size_t>(m.n)), carried(x);
            const auto           y = m.recurrence(h, u, x.data());
            for (size_t c = 0; c < u.size(); c += Q) {
                for (size_t i = 0; i < Q; ++i) { // y[i] = sum K u + 2 Re sum C a^(i+1) x
                    double sum = m.D[size_t(h)] * u[c + i];
                    for (size_t l = 0; l <= i; ++l) sum += m.kernel(h, int64_t(l)) * u[c + i - l];
                    for (int64_t j = 0; j < m.n; ++j)
                        sum += 2 * std::real(m.C[size_t(h * m.n + j)] *
                                             std::pow(m.a[size_t(h * m.n + j)], double(i + 1)) * carried[size_t(j)]);
                    REQUIRE(std::fabs(sum - y[c + i]) < 1e-12);
                }
                for (int64_t j = 0; j < m.n; ++j) { // x_out = a^Q x + sum a^(Q-1-i) b u[i]
                    const size_t k = size_t(h * m.n + j);
                    complex      next = std::pow(m.a[k], double(Q)) * carried[size_t(j)];
                    for (size_t i = 0; i < Q; ++i) next += std::pow(m.a[k], double(Q - 1 - i)) * m.b[k] * u[c + i];
                    carried[size_t(j)] = next;
                }
            }
            for (int64_t j = 0; j < m.n; ++j) REQUIRE(std::abs(carried[size_t(j)] - x[size_t(j)]) < 1e-12);
        }
}

TEST_CASE("the library's step = convolution with the golden kernel") {
    const Golden g(golden(golden_files[0]));
    Loaded       m(g.bytes);
    const Modes  modes(g);
    const auto   x = g.floats("test.input"), W = g.floats("encoder.weight"), bias = g.floats("encoder.bias");
    const size_t d = size_t(m.config.d_input), L = x.size() / d;
    for (size_t t = 0; t < L; ++t) { // state x_hj[t] = sum_l a^l b u[t-l], u by the encoder
        std::vector<float> y(size_t(m.config.d_output));
        REQUIRE(ssm::step(m.model, &m.state, &m.scratch, &x[t * d], y.data()) == ssm::Status::ok);
        const float* f = reinterpret_cast<const float*>(m.state.data) + 4 + 8;
        for (int64_t h = 0; h < modes.H; ++h)
            for (int64_t j = 0; j < modes.n; ++j) {
                complex sum = 0;
                for (size_t l = 0; l <= t; ++l) {
                    double u = double(bias[size_t(h)]);
                    for (size_t k = 0; k < d; ++k) u += double(W[size_t(h) * d + k]) * double(x[(t - l) * d + k]);
                    sum += std::pow(modes.a[size_t(h * modes.n + j)], double(l)) * modes.b[size_t(h * modes.n + j)] * u;
                }
                REQUIRE(std::fabs(sum.real() - double(f[j * 16 + h])) < 1e-5);
                REQUIRE(std::fabs(sum.imag() - double(f[j * 16 + 8 + h])) < 1e-5);
            }
    }
}

TEST_CASE("the two spellings of a layer are the same model") {
    for (const char* disc : {"zoh", "bilinear"}) {
        S4dSpec minimal, full;
        minimal.disc = full.disc = disc;
        full.full = true;
        Loaded             a(s4d_model(minimal).file()), b(s4d_model(full).file());
        const auto         x = random_inputs(30 * 3);
        std::vector<float> y(2), z(2);
        for (size_t t = 0; t < 30; ++t) {
            REQUIRE(ssm::step(a.model, &a.state, &a.scratch, &x[t * 3], y.data(), t % 3 == 0 ? 1.0f : 1.7f) ==
                    ssm::Status::ok);
            REQUIRE(ssm::step(b.model, &b.state, &b.scratch, &x[t * 3], z.data(), t % 3 == 0 ? 1.0f : 1.7f) ==
                    ssm::Status::ok);
            REQUIRE(same_bits(y, z));
        }
    }
}

TEST_CASE("full spelling: B, shared sets of A and B, a step size per mode") {
    S4dSpec spec;
    spec.full = true, spec.layers = 1, spec.H = 4, spec.n = 2;
    Builder           b = s4d_model(spec);
    const std::string p = "s4_layers.0.layer.kernel.";
    b.add(p + "A_real", {2, 2}, {0.1f, 0.2f, 0.3f, 0.4f});
    b.add(p + "A_imag", {2, 2}, {1.0f, 2.0f, 3.0f, 4.0f});
    b.add(p + "B", {1, 2, 2, 2}, {0.5f, 1.0f, -0.5f, 2.0f, 1.5f, -1.0f, 0.25f, 0.75f});
    b.add(p + "inv_dt", {4, 2}, {-1.0f, -1.5f, -2.0f, -2.5f, -3.0f, -3.5f, -1.2f, -1.4f});
    Loaded             m(b.file());
    const float        x[3] = {0.3f, -0.7f, 0.2f};
    std::vector<float> y(2);
    REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x, y.data()) == ssm::Status::ok);
    const auto W = b.tensors["encoder.weight"].data, bias = b.tensors["encoder.bias"].data;
    const auto at = [](const Bytes& v, size_t i) {
        float f;
        std::memcpy(&f, &v[4 * i], 4);
        return double(f);
    };
    const float* f = reinterpret_cast<const float*>(m.state.data) + 4 + 8;
    const double B[2][2][2] = {{{0.5, 1.0}, {-0.5, 2.0}}, {{1.5, -1.0}, {0.25, 0.75}}},
                 inv_dt[4][2] = {{-1.0, -1.5}, {-2.0, -2.5}, {-3.0, -3.5}, {-1.2, -1.4}};
    for (size_t h = 0; h < 4; ++h) {
        double u = at(bias, h);
        for (size_t k = 0; k < 3; ++k) u += at(W, h * 3 + k) * double(x[k]);
        for (size_t j = 0; j < 2; ++j) {
            const complex A(-std::exp(0.1 + 0.2 * double(h % 2) + 0.1 * double(j)),
                            -(1.0 + 2.0 * double(h % 2) + double(j)));
            const complex b_hj =
                complex(B[h % 2][j][0], B[h % 2][j][1]) * (std::exp(std::exp(inv_dt[h][j]) * A) - 1.0) / A;
            CHECK(double(f[j * 16 + h]) == doctest::Approx(std::real(b_hj) * u).epsilon(1e-5));
            CHECK(double(f[j * 16 + 8 + h]) == doctest::Approx(std::imag(b_hj) * u).epsilon(1e-5));
        }
    }
}

TEST_CASE("dt = 2 equals two empty steps, dt = 1 two empty half steps, and a model with steps twice as long") {
    // ZOH is exact for an input that is held: with a zero input the state only decays, a(2 dt) = a(dt)^2.
    S4dSpec spec;
    spec.layers = 1, spec.pool = "none";
    Builder b = s4d_model(spec);
    b.add("encoder.bias", {12}, std::vector<float>(12, 0.0f)); // empty input = zero input to the SSM
    Loaded             m(b.file());
    const float        x[3] = {1.0f, -2.0f, 0.5f}, empty[3] = {0, 0, 0};
    std::vector<float> y(2), z(2);
    REQUIRE(ssm::step(m.model, &m.state, &m.scratch, x, y.data()) == ssm::Status::ok);
    OwnState twice(m.model, m.state), held(m.model), held_twice(m.model);
    REQUIRE(ssm::step(m.model, &m.state, &m.scratch, empty, y.data(), 2.0f) == ssm::Status::ok);
    REQUIRE(ssm::step(m.model, &twice.state, &m.scratch, empty, z.data()) == ssm::Status::ok);
    REQUIRE(ssm::step(m.model, &twice.state, &m.scratch, empty, z.data()) == ssm::Status::ok);
    const auto close = [&](const ssm::State& a, const ssm::State& c) {
        const float *f = static_cast<const float*>(a.data) + 4, *g = static_cast<const float*>(c.data) + 4;
        for (size_t i = 0; i < ssm::state_bytes(m.config) / 4 - 4; ++i)
            CHECK(double(f[i]) == doctest::Approx(double(g[i])).epsilon(1e-5));
    };
    close(m.state, twice.state);
    for (size_t k = 0; k < 2; ++k) CHECK(double(y[k]) == doctest::Approx(double(z[k])).epsilon(1e-5));
    // And exactly for an input that is held over both halves.
    REQUIRE(ssm::step(m.model, &held.state, &m.scratch, x, y.data(), 3.0f) == ssm::Status::ok);
    for (int i = 0; i < 3; ++i)
        REQUIRE(ssm::step(m.model, &held_twice.state, &m.scratch, x, z.data(), 1.0f) == ssm::Status::ok);
    close(held.state, held_twice.state);
    // Half steps: two empty ones are one.
    OwnState whole(m.model, m.state), halves(m.model, m.state);
    REQUIRE(ssm::step(m.model, &whole.state, &m.scratch, empty, y.data()) == ssm::Status::ok);
    for (int i = 0; i < 2; ++i)
        REQUIRE(ssm::step(m.model, &halves.state, &m.scratch, empty, z.data(), 0.5f) == ssm::Status::ok);
    close(whole.state, halves.state);
    // A model with steps twice as long takes in one step what this one takes with dt = 2, whatever the input.
    for (const char* disc : {"zoh", "bilinear"}) {
        spec.disc = disc;
        Builder       longer = s4d_model(spec);
        const Builder usual = longer;
        auto&         log_dt = longer.tensors["s4_layers.0.kernel.log_dt"].data;
        for (size_t i = 0; i < log_dt.size(); i += 4) {
            float v;
            std::memcpy(&v, &log_dt[i], 4);
            v += 0.693147181f; // log 2
            std::memcpy(&log_dt[i], &v, 4);
        }
        Loaded a(usual.file()), c(longer.file());
        for (size_t t = 0; t < 20; ++t) {
            const auto event = random_inputs(3, uint32_t(t));
            REQUIRE(ssm::step(a.model, &a.state, &a.scratch, event.data(), y.data(), 2.0f) == ssm::Status::ok);
            REQUIRE(ssm::step(c.model, &c.state, &c.scratch, event.data(), z.data()) == ssm::Status::ok);
            for (size_t k = 0; k < 2; ++k) CHECK(double(y[k]) == doctest::Approx(double(z[k])).epsilon(1e-4));
        }
    }
}

TEST_CASE("dt of 1, given or not, takes the same path; dt near 1 is near") {
    for (const char* disc : {"zoh", "bilinear"}) {
        S4dSpec spec;
        spec.disc = disc;
        Loaded                   m(s4d_model(spec).file());
        const auto               x = random_inputs(20 * 3);
        const std::vector<float> ones(20, 1.0f), near(20, std::nextafter(1.0f, 2.0f));
        std::vector<float>       a(2), b(2), c(2);
        OwnState                 s(m.model), t(m.model);
        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 20, a.data()) == ssm::Status::ok);
        REQUIRE(ssm::prefill(m.model, &s.state, &m.scratch, x.data(), 20, b.data(), ones.data()) == ssm::Status::ok);
        REQUIRE(ssm::prefill(m.model, &t.state, &m.scratch, x.data(), 20, c.data(), near.data()) == ssm::Status::ok);
        CHECK(same_bits(a, b));
        for (size_t k = 0; k < 2; ++k) CHECK(double(a[k]) == doctest::Approx(double(c[k])).epsilon(1e-4));
    }
}

TEST_CASE("weights stored as BF16 are up-cast exactly") {
    S4dSpec wide, narrow;
    narrow.dtype = "BF16";
    Builder b = s4d_model(wide);
    for (auto& [name, t] : b.tensors) // the same numbers, truncated, stored as F32
        if (name == "encoder.weight" || name == "encoder.bias" || name == "decoder.weight" || name == "decoder.bias" ||
            name.find("output_linear.0.weight") != std::string::npos)
            for (size_t i = 0; i < t.data.size(); i += 4) t.data[i] = t.data[i + 1] = 0;
    Loaded             m(b.file()), n(s4d_model(narrow).file());
    const auto         x = random_inputs(30 * 3);
    std::vector<float> y(2), z(2);
    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 30, y.data()) == ssm::Status::ok);
    REQUIRE(ssm::prefill(n.model, &n.state, &n.scratch, x.data(), 30, z.data()) == ssm::Status::ok);
    CHECK(same_bits(y, z));
}

TEST_CASE("N-05 a million steps of extreme input stay finite and within the clip (very slow)") {
    S4dSpec spec;
    spec.H = 8, spec.n = 2, spec.layers = 1, spec.clip = "50";
    Loaded             m(s4d_model(spec).file(), 256);
    const size_t       block = 50000;
    std::vector<float> x(block * 3), y(2);
    for (int kind = 0; kind < 4; ++kind) {
        for (size_t t = 0; t < block; ++t)
            for (size_t k = 0; k < 3; ++k)
                x[t * 3 + k] = (kind == 0   ? 1.0f
                                : kind == 1 ? -1.0f
                                : kind == 2 ? (t % 2 ? 1.0f : -1.0f)
                                            : float(t % 3 == k)) *
                               1e9f;
        for (int i = 0; i < 5; ++i)
            REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), int32_t(block), y.data()) == ssm::Status::ok);
        const float* f = reinterpret_cast<const float*>(m.state.data) + 4 + 8;
        for (int i = 0; i < 8 * 2 * 2; ++i) REQUIRE(std::fabs(f[i]) <= 50.0f);
        for (float v : y) REQUIRE(std::isfinite(v));
    }
    CHECK(ssm::clipped(m.model, m.state));
    CHECK(ssm::steps_of(m.model, m.state) == 1000000);
}

TEST_CASE("N-02 a mode that rounding would push to |a| > 1 is kept at or below 1") {
    S4dSpec spec;
    spec.H = 8, spec.n = 2, spec.layers = 1, spec.pool = "none";
    Builder b = s4d_model(spec);
    b.add("s4_layers.0.kernel.log_A_real", {8, 2}, std::vector<float>(16, -25.0f));
    b.add("encoder.bias", {8}, std::vector<float>(8, 0.0f));
    Loaded             m(b.file(), 64);
    const float        one[3] = {1, 1, 1};
    std::vector<float> y(2), zero(3 * 20000, 0.0f);
    REQUIRE(ssm::step(m.model, &m.state, &m.scratch, one, y.data()) == ssm::Status::ok);
    const float* f = static_cast<const float*>(m.state.data) + 4;
    double       before = 0, after = 0;
    for (int i = 0; i < 32; ++i) before += double(f[i]) * double(f[i]);
    for (int i = 0; i < 20; ++i)
        REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, zero.data(), 20000, y.data()) == ssm::Status::ok);
    for (int i = 0; i < 32; ++i) after += double(f[i]) * double(f[i]);
    CHECK(after <= before * 1.001);
}
