// int_reference.cpp - the slow integer engine against every integer of the golden files.
// SPDX-License-Identifier: MIT
#include "int_reference.hpp"
#include "support.hpp"

#include <algorithm>
#include <filesystem>
#include <functional>

using namespace int_reference;

namespace {

std::string int_golden(const std::string& name) { return SSM_TEST_DIR "/golden/int/" + name; }

std::vector<std::string> golden_models() { // 01 to 22
    std::vector<std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(SSM_TEST_DIR "/golden/int")) {
        const std::string name = entry.path().filename().string();
        if (name[0] >= '0' && name[0] <= '9' && name.rfind("00_", 0) != 0) all.push_back(name);
    }
    std::sort(all.begin(), all.end());
    return all;
}

// How many numbers differ, and where first.
struct Differences {
    size_t      count = 0;
    std::string first;
    void        compare(const std::string& name, const Vec& got, const Vec& want) {
               if (got.size() != want.size()) {
                   ++count;
                   if (first.empty())
                first = name + ": " + std::to_string(got.size()) + " numbers for " + std::to_string(want.size());
            return;
        }
               for (size_t i = 0; i < got.size(); ++i)
            if (got[i] != want[i] && ++count == 1)
                first =
                    name + "[" + std::to_string(i) + "]: " + std::to_string(got[i]) + " for " + std::to_string(want[i]);
    }
};

// f of each index of the named tensor's elements equals that tensor.
void expect(const File& f, const std::string& name, const std::function<I(size_t)>& value) {
    const Vec   want = f.integers(name);
    Vec         got;
    Differences d;
    for (size_t i = 0; i < want.size(); ++i) got.push_back(value(i));
    d.compare(name, got, want);
    CHECK_MESSAGE(d.count == 0, d.first);
    CHECK(!want.empty());
}

Vec row_of(const Vec& v, size_t row, size_t width) {
    return Vec(v.begin() + I(row * width), v.begin() + I((row + 1) * width));
}

void replay(const std::string& name, size_t* integers) {
    Model       model(test::read_file(int_golden(name)));
    const File& f = model.file();
    const I     steps = f.number("steps"), width = model.d_input();
    const auto  input = model.tokens() ? std::vector<float>() : f.floats("test.input");
    const Vec   tokens = model.tokens() ? f.integers("test.input") : Vec();
    const Vec   dt = f.has("test.dt_scale") ? f.integers("test.dt_scale") : Vec(size_t(steps), 65536);
    Vec         outputs;
    Digest      digest;
    model.tracing = true;
    for (size_t t = 0; t < size_t(steps); ++t) {
        const Vec y = model.tokens()
                          ? model.step_token(tokens[t], dt[t])
                          : model.step({input.begin() + I(t) * width, input.begin() + (I(t) + 1) * width}, dt[t]);
        for (I v : y) outputs.push_back(v), digest.add(v);
    }
    Differences d;
    const auto  same = [&](const std::string& tensor, const Vec& got) {
        d.compare(tensor, got, f.integers(tensor));
        *integers += got.size();
    };
    same("test.output", outputs);
    CHECK_MESSAGE(digest.text() == f.text("digest"), name);
    CHECK_MESSAGE(model.clipped == f.number("clipped"), name);
    size_t checked = 1, stored = 0;
    for (size_t i = 0; i < model.layers.size(); ++i) {
        const auto&       l = model.layers[i];
        const std::string p = "final.layers." + std::to_string(i) + ".";
        Vec               h, X, conv;
        for (const Row& row : l.rows) h.insert(h.end(), row.h.begin(), row.h.end()), X.push_back(row.X);
        for (const Vec& c : l.conv) conv.insert(conv.end(), c.begin(), c.end());
        const std::pair<std::string, Vec> parts[] = {{p + "theta", Vec(l.theta.begin(), l.theta.end())},
                                                     {p + "k", l.k},
                                                     {p + "v", l.v},
                                                     {p + "h", h},
                                                     {p + "h16", h},
                                                     {p + "hexp", X},
                                                     {p + "conv", conv},
                                                     {"final.s4_" + p.substr(6) + "x", l.x}};
        for (const auto& part : parts)
            if (f.has(part.first)) same(part.first, part.second), ++checked;
    }
    if (f.has("final.pool.sum"))
        same("final.pool.sum", model.pool_sum), same("final.pool.count", {model.pool_count}), checked += 2;
    for (const auto& t : model.trace)
        if (f.has("trace." + t.first)) same("trace." + t.first, t.second), ++checked;
    CHECK_MESSAGE(d.count == 0, name, ": ", d.count, " differ, ", d.first);
    // Nothing that the file states was passed over.
    for (int32_t i = 0; i < f.index().n_entries; ++i) {
        const ssm::Entry& e = f.index().entries[i];
        const std::string tensor(e.name, size_t(e.name_len));
        for (const char* with : {"test.output", "final.", "trace."})
            stored += e.value == nullptr && tensor.rfind(with, 0) == 0;
    }
    CHECK_MESSAGE(checked == stored, name);
}
} // namespace

TEST_CASE("the integer reference reproduces every integer of the golden models") {
    size_t     integers = 0;
    const auto files = golden_models();
    CHECK(files.size() == 22);
    for (const std::string& name : files) replay(name, &integers);
    CHECK(integers > 100000);
}

TEST_CASE("N-06: the integer reference reproduces the primitives at their edges") {
    const File f(test::read_file(int_golden("00_primitives.safetensors")));
    const auto all = [&](const char* name) { return f.integers(name); };
    const Vec  x = all("x.q16");
    const auto in = f.floats("in.x");
    expect(f, "in.q16", [&](size_t i) { return to_q16(in[i]); });
    const Vec  out = all("out.q16");
    const auto out_f = f.floats("out.f32");
    for (size_t i = 0; i < out.size(); ++i) CHECK(bits_of(to_float(out[i])) == bits_of(out_f[i]));
    {
        const Vec alpha = all("core.alpha"), h = all("core.h"), addend = all("core.add");
        I         clipped = 0;
        for (I clip : {50 * pow2(25), largest})
            expect(f, clip == largest ? "core_noclip.out" : "core.out", [&](size_t i) {
                Row row;
                row.h = {h[i]};
                row.step(false, {alpha[i]}, {addend[i]}, {0}, clip, &clipped);
                return row.h[0];
            });
    }
    {
        const Vec alpha = all("row.alpha"), code = all("row.code"), X = all("row.exp"), addend = all("row.add"),
                  q = all("row.q");
        std::vector<Row> rows;
        Vec              read;
        I                clipped = 0;
        for (size_t i = 0; i < X.size(); ++i) {
            Row row;
            row.h = row_of(code, i, 8), row.X = X[i];
            read.push_back(
                row.step(true, Vec(8, alpha[i]), row_of(addend, i, 8), row_of(q, i, 8), 50 * pow2(25), &clipped));
            rows.push_back(row);
        }
        expect(f, "row.out_code", [&](size_t i) { return rows[i / 8].h[i % 8]; });
        expect(f, "row.out_exp", [&](size_t i) { return rows[i].X; });
        expect(f, "row.read", [&](size_t i) { return read[i]; });
    }
    expect(f, "x.A_heavy_tail", [&](size_t i) { return decay_rate(x[i], false, 6711); });
    expect(f, "x.A_softplus", [&](size_t i) { return decay_rate(x[i], true, 6711); });
    expect(f, "x.silu", [&](size_t i) { return SiLU(x[i]); });
    expect(f, "x.gelu", [&](size_t i) { return GELU(x[i]); });
    expect(f, "x.sigmoid26", [&](size_t i) { return sigmoid(to26(x[i])); });
    expect(f, "x.tanh26", [&](size_t i) { return int_reference::tanh(to26(x[i])); });
    {
        const Vec  bias = all("dt.bias"), scale = all("dt.scale"), v = all("dt.v");
        const auto dt = [&](size_t i) { return step_size(x[i], bias[i], scale[i]); };
        const auto alpha = [&](size_t i) { return exp_neg(rs(mul(decay_rate(x[i], false, 6711), dt(i)), 26)); };
        const auto lam = [&](size_t i) { return sigmoid(to26(x[x.size() - 1 - i])); };
        const auto gamma = [&](size_t i) { return rs(mul(lam(i), dt(i)), 30); };
        expect(f, "dt.out", dt);
        expect(f, "dt.alpha", alpha);
        expect(f, "dt.gamma", gamma);
        expect(f, "dt.beta", [&](size_t i) { return rs(mul(rs(mul(alpha(i), dt(i)), 30), one30 - lam(i)), 30); });
        expect(f, "dt.gv", [&](size_t i) { return sat(rs(mul(gamma(i), v[i]), 16)); });
        expect(f, "dt.theta_inc",
               [&](size_t i) { return I(static_cast<uint32_t>(rs(mul(int_reference::tanh(to26(x[i])), dt(i)), 25))); });
    }
    {
        const Vec v = all("norm.x"), g = all("norm.g"), b = all("norm.b");
        expect(f, "norm.rms16", [&](size_t i) { return rms_norm(row_of(v, i / 45, 45), g, 24)[i % 45]; });
        expect(f, "norm.rms20", [&](size_t i) { return rms_norm(row_of(v, i / 45, 45), g, 20)[i % 45]; });
        expect(f, "norm.layer", [&](size_t i) { return layer_norm(row_of(v, i / 45, 45), g, b)[i % 45]; });
    }
    {
        const Vec rho = all("gap.rho"), phase = all("gap.phase"), g = all("gap.g"), scale = all("gap.scale");
        for (const char* part : {"gap.a", "gap.b"})
            expect(f, part, [&](size_t i) {
                I a[2], b[2];
                s4d_gap(rho[i / 2], phase[i / 2], &g[i / 2 * 2], scale[i / 2], 31, 29, a, b);
                return part[4] == 'a' ? a[i % 2] : b[i % 2];
            });
    }
    {
        Vec       sum = all("pool.sum"), count = all("pool.count"), mean;
        const Vec r = all("pool.r");
        for (size_t i = 0; i < r.size(); ++i) {
            pool_advance(&sum[i], 1, &count[i]);
            mean.push_back(pool_mean(&sum[i], count[i], r[i]));
        }
        expect(f, "pool.out_sum", [&](size_t i) { return sum[i]; });
        expect(f, "pool.out_count", [&](size_t i) { return count[i]; });
        expect(f, "pool.mean", [&](size_t i) { return mean[i]; });
    }
    const Vec  code = all("embed.code");
    const auto scale = f.floats("embed.scale");
    expect(f, "embed.q16", [&](size_t i) { return embedded(code[i], scale_of(scale[i])); });
}

TEST_CASE("the integer reference reproduces the integer primitives") {
    const File f(test::read_file(int_golden("int_primitives.safetensors")));
    const auto all = [&](const char* name) { return f.integers(name); };
    const auto unary = [&](const char* x, const char* out, const std::function<I(I)>& function) {
        const Vec v = all(x);
        expect(f, out, [&](size_t i) { return function(v[i]); });
    };
    {
        const Vec x = all("rs.x"), s = all("rs.s");
        expect(f, "rs.out", [&](size_t i) { return rs(x[i], s[i]); });
    }
    unary("exp_neg.x", "exp_neg.out", exp_neg);
    unary("unary.x", "sigmoid.out", sigmoid);
    unary("unary.x", "tanh.out", int_reference::tanh);
    unary("unary.x", "softplus.out", softplus);
    unary("unary.x", "phi.out", [](I x) { return Phi(sat(x, 8 * pow2(26))); });
    unary("phase.x", "sin.out", [](I p) { return sin_turn(static_cast<uint32_t>(p)); });
    unary("phase.x", "cos.out", [](I p) { return cos_turn(static_cast<uint32_t>(p)); });
    unary("recip.x", "recip.out", recip);
    unary("rsqrt.x", "rsqrt.r", [](I v) { return rsqrt(v).r; });
    unary("rsqrt.x", "rsqrt.e", [](I v) { return rsqrt(v).E; });
    for (const std::string bits : {"8", "16"}) {
        std::vector<Codes> codes;
        for (size_t i = 0; i < 24; ++i) codes.push_back(quantize(row_of(all("act.x"), i, 96), bits == "8" ? 8 : 16));
        expect(f, "act" + bits + ".q", [&](size_t i) { return codes[i / 96].q[i % 96]; });
        expect(f, "act" + bits + ".num", [&](size_t i) { return codes[i].num; });
        expect(f, "act" + bits + ".den", [&](size_t i) { return codes[i].den; });
        for (const std::string lin : {"lin8", "lin4"}) {
            Projection p;
            p.O = 40, p.K = p.Kp = 96, p.rows4 = lin == "lin4" ? 40 : 0, p.bias = f.integers(lin + ".bias");
            for (float s : f.floats(lin + ".scale")) p.scale.push_back(scale_of(s));
            if (lin == "lin8") p.q8 = all("lin8.weight");
            else {
                std::vector<uint8_t> bytes;
                for (I b : all("lin4.weight")) bytes.push_back(static_cast<uint8_t>(b));
                p.unpack(bytes);
                p.subs = all("lin4.sub");
            }
            std::vector<Vec> y;
            for (size_t i = 0; i < 20; ++i) y.push_back(p(row_of(all("lin.x"), i, 96), bits == "8" ? 8 : 16));
            expect(f, lin + ".out_a" + bits, [&](size_t i) { return y[i / 40][i % 40]; });
        }
    }
    expect(f, "rmsnorm.out_q20", [&](size_t i) {
        return rms_norm(row_of(all("rmsnorm.x"), i / 96, 96), all("rmsnorm.weight_q16"), 20, false)[i % 96];
    });
    const Vec a = all("s4d.a_q30"), b = all("s4d.b_q31"), C = all("s4d.c_q"), D = all("s4d.D_q16"),
              u = all("s4d.u_q16");
    const auto scale = f.floats("s4d.c_scale");
    Vec        state(60, 0), y;
    I          clipped = 0;
    for (size_t t = 0; t < 300; ++t) {
        for (size_t h = 0; h < 6; ++h)
            y.push_back(s4d_channel(&state[10 * h], &a[10 * h], &b[10 * h], &C[10 * h], 5, scale_of(scale[h]), D[h],
                                    u[6 * t + h], 31, 50 * pow2(25), &clipped));
        if (t == 199) expect(f, "s4d.state_after_200", [&](size_t i) { return state[i]; });
    }
    expect(f, "s4d.state_after_300", [&](size_t i) { return state[i]; });
    expect(f, "s4d.y_q16", [&](size_t i) { return y[i]; });
    CHECK(clipped == f.number("s4d_clipped_components"));
}

TEST_CASE("the integer reference refuses what leaves 64 bits") {
    CHECK_THROWS_AS(add(INT64_MAX, 1), OutOfRange);
    CHECK_THROWS_AS(sub(INT64_MIN, 1), OutOfRange);
    CHECK_THROWS_AS(mul(pow2(32), pow2(31)), OutOfRange);
    CHECK_THROWS_AS(rs(INT64_MAX, 1), OutOfRange);
    CHECK_THROWS_AS(rs(pow2(60), -3), OutOfRange);
    CHECK_THROWS_AS(scale_of(1.0f), OutOfRange);
    CHECK_THROWS_AS(to_q16(HUGE_VALF), std::invalid_argument);
}
