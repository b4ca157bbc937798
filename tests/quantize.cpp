// quantize.cpp - the converter: its rules on small cases, against a second writing of them, the files it makes.
// SPDX-License-Identifier: MIT
#include "int_models.hpp"
#include "int_reference.hpp"

#include <algorithm>
#include <filesystem>
#include <set>

using namespace test;

namespace {

struct Rows4 {
    std::vector<int8_t> codes, subs;
    float               scale;
    explicit Rows4(const std::vector<double>& w) : codes(w.size()), subs(w.size() / 32) {
        scale = quantize::int4_row(w.data(), w.size(), codes.data(), subs.data());
    }
};
std::vector<int> int8_codes(const std::vector<double>& w, float* scale) {
    std::vector<int8_t> codes(w.size());
    *scale = quantize::int8_row(w.data(), w.size(), codes.data());
    return std::vector<int>(codes.begin(), codes.end());
}

// A row of the kinds that matter: any numbers, sparse, tiny, of one magnitude, full of ties.
std::vector<double> random_row(std::mt19937* engine, size_t n) {
    const auto          kind = (*engine)() % 6;
    const int           exponent = int((*engine)() % 40) - 20;
    std::vector<double> w(n);
    for (double& x : w) {
        double v = double((*engine)()) / 2147483648.0 - 1.0;
        if (kind == 1 && (*engine)() % 4 != 0) v = 0;
        if (kind == 2) v *= 1e-33;
        if (kind == 3) v = v < 0 ? -1.0 : 1.0;
        if (kind == 4) v = std::floor(v * 127) / 127.0 + 0.5 / 127.0;
        if (kind == 5) v = 0;
        x = double(float(std::ldexp(v, exponent)));
    }
    return w;
}

// The rules once more, from the definition, by search rather than by rounding where that can be told apart.
int nearest_even(double x) { // the integer of least distance; of two, the even one
    const double low = std::floor(x), d = x - low;
    if (d < 0.5) return int(low);
    if (d > 0.5) return int(low) + 1;
    return int(low) % 2 == 0 ? int(low) : int(low) + 1;
}
int between(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

std::string int_golden_folder() { return SSM_TEST_DIR "/golden/int"; }

using Table = std::map<std::string, std::string>; // name to dtype and shape
Table table_of(const int_reference::File& f) {
    Table t;
    for (int32_t i = 0; i < f.index().n_entries; ++i) {
        const ssm::Entry& e = f.index().entries[i];
        if (e.value != nullptr) continue;
        const std::string name(e.name, size_t(e.name_len));
        bool              model = true;
        for (const char* with : {"test.", "trace.", "final."}) model &= name.rfind(with, 0) != 0;
        std::string shape = f.dtype(name);
        for (int64_t d : f.shape(name)) shape += " " + std::to_string(d);
        if (model) t[name] = shape;
    }
    return t;
}
std::map<std::string, std::string> metadata_of(const int_reference::File& f) {
    std::map<std::string, std::string> m;
    for (int32_t i = 0; i < f.index().n_entries; ++i) {
        const ssm::Entry& e = f.index().entries[i];
        if (e.value != nullptr) m[std::string(e.name, size_t(e.name_len))] = std::string(e.value, size_t(e.value_len));
    }
    return m;
}

// A float model of the shape of a golden integer model, and the settings it was made with.
random_model::Spec spec_of(const int_reference::File& f, quantize::Settings* settings) {
    random_model::Spec s;
    const bool         s4d = f.text("arch") == "s4d";
    s.arch = f.text("arch"), s.d_model = f.number("d_model"), s.d_state = f.number("d_state");
    s.n_layer = f.number(s4d ? "n_layers" : "n_layer");
    s.clip = std::atof(f.text("clip").c_str());
    if (s4d) {
        s.d_input = f.number("d_input"), s.d_output = f.number("d_output"), s.pool = f.text("pool");
        s.disc = f.text("disc"), s.prenorm = f.text("prenorm") == "true";
    } else {
        s.norm = f.text("norm"), s.mlp_hidden = f.number("mlp_hidden"), s.d_inner = f.number("d_inner");
        if (f.text("input") == "features") s.d_input = f.number("d_input");
        s.vocab_size = f.number("vocab_size"), s.tied = f.text("head") == "tied";
        if (f.text("head") == "linear") s.d_output = f.number("d_output");
        s.head_bias = f.has("head.bias"), s.d_conv = f.number("d_conv"), s.dt_rank = f.number("dt_rank");
        s.headdim = std::max<int64_t>(1, f.number("headdim")), s.ngroups = std::max<int64_t>(1, f.number("ngroups"));
        s.mimo_rank = f.text("is_mimo") == "true" ? f.number("mimo_rank") : 0, s.rope_angles = f.number("rope_angles");
        s.outproj_norm = f.text("is_outproj_norm") == "true", s.d_ssm = f.number("d_ssm");
        if (!f.text("a_activation").empty()) s.a_activation = f.text("a_activation");
        if (!f.text("A_floor").empty()) s.a_floor = std::atof(f.text("A_floor").c_str());
        s.norm_before_gate = f.text("norm_before_gate") == "true";
    }
    settings->int4 = f.text("weight_bits") == "4", settings->act16 = f.text("act_bits") == "16";
    settings->row_exponents = f.text("state") == "i16rowexp", settings->gaps = !f.text("g_frac").empty();
    return s;
}

double sqnr(const std::vector<double>& want, const std::vector<double>& got) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < want.size(); ++i)
        signal += want[i] * want[i], noise += (want[i] - got[i]) * (want[i] - got[i]);
    return 10 * std::log10(signal / noise);
}

// Outputs of the float engine and of the integer reference over the same events.
double drift(const Bytes& file, const Bytes& integers, size_t steps, bool gaps) {
    Loaded               real(file);
    int_reference::Model whole(integers);
    const bool           tokens = whole.tokens();
    const auto           width = size_t(real.config.d_input);
    const auto           x = random_inputs(steps * width, 5);
    std::vector<double>  want, got;
    std::mt19937         engine(9);
    for (size_t t = 0; t < steps; ++t) {
        const float        dt = gaps ? 0.25f * float(1 + engine() % 12) : 1.0f;
        std::vector<float> row(x.begin() + std::ptrdiff_t(t * width), x.begin() + std::ptrdiff_t((t + 1) * width)),
            y(size_t(real.config.d_output));
        const auto token = int32_t(engine() % uint32_t(std::max(1, real.config.vocab_size)));
        if (tokens) REQUIRE(ssm::embed(real.model, token, row.data()) == ssm::Status::ok);
        REQUIRE(ssm::step(real.model, &real.state, &real.scratch, row.data(), y.data(), dt) == ssm::Status::ok);
        const auto q =
            tokens ? whole.step_token(token, int_reference::to_q16(dt)) : whole.step(row, int_reference::to_q16(dt));
        REQUIRE(q.size() == y.size());
        for (size_t i = 0; i < y.size(); ++i) want.push_back(double(y[i])), got.push_back(double(q[i]) / 65536);
    }
    return sqnr(want, got);
}

std::string error_of(const Bytes& file, const quantize::Settings& settings, int status) {
    quantize::Model m;
    std::string     error;
    CHECK(quantize::make({file.data(), file.size()}, settings, &m, &error) == status);
    return error;
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

} // namespace

TEST_CASE("int8 rows of a few numbers come out as worked by hand") {
    float scale = 0;
    CHECK(int8_codes({1.27, -0.01, 0.0049, 0.0}, &scale) == std::vector<int>{127, -1, 0, 0});
    CHECK(scale == float(1.27 / 127));
    // scale 1/2: ties go to the even code
    CHECK(int8_codes({63.5, 0.25, 0.75, 1.25, -0.25, -0.75}, &scale) == std::vector<int>{127, 0, 2, 2, 0, -2});
    CHECK(scale == 0.5f);
    CHECK(int8_codes({0, 0, 0}, &scale) == std::vector<int>{0, 0, 0});
    CHECK(scale == 0.0078125f);
    CHECK(int8_codes({0x1p-101, -0x1p-101}, &scale) == std::vector<int>{0, 0}); // as good as nothing
    CHECK(scale == 0.0078125f);
    CHECK(int8_codes({0x1p-100}, &scale) == std::vector<int>{127});
    CHECK(int8_codes({127.0}, &scale) == std::vector<int>{127});
    CHECK(scale == 1.0f); // which no file can hold
}

TEST_CASE("int4 rows of a few numbers come out as worked by hand") {
    // Alone and of largest magnitude at a multiple of 8: -8 codes at the sub-scale -127 or what is near it.
    std::vector<double> w(32, 0.0);
    w[3] = 127.0 / 16;
    const Rows4 one(w);
    CHECK(one.scale == float(127.0 / 16 / 8 / 127));
    // d = 6.2 gives sub -164 -> -127 and code -8, which is exact; nothing later is strictly better.
    CHECK(int(one.subs[0]) == -127);
    CHECK(int(one.codes[3]) == -8);
    CHECK(std::count(one.codes.begin(), one.codes.end(), int8_t(0)) == 31);
    // The first of two largest leads: +v and -v of one size. A negative one first takes a positive sub-scale.
    w[1] = -w[3];
    const Rows4 two(w);
    CHECK(int(two.codes[1]) * int(two.subs[0]) < 0);
    // Nothing at all: scale 2^-7, sub-scale 1, codes 0.
    const Rows4 none(std::vector<double>(64, 0.0));
    CHECK(none.scale == 0.0078125f);
    CHECK(none.subs == std::vector<int8_t>{1, 1});
    CHECK(std::count(none.codes.begin(), none.codes.end(), int8_t(0)) == 64);
    // A group of nothing beside another.
    std::vector<double> half(64, 0.0);
    half[40] = 1.0;
    const Rows4 beside(half);
    CHECK(int(beside.subs[0]) == 1);
    CHECK(int(beside.subs[1]) != 1);
}

TEST_CASE("rows follow the rules as written a second time") {
    std::mt19937 engine(3);
    for (int trial = 0; trial < 1500; ++trial) {
        const size_t groups = 1 + engine() % 4, n = 32 * groups;
        const auto   w = random_row(&engine, n);
        double       most = 0;
        for (double v : w) most = std::max(most, std::fabs(v));
        {
            float        scale = 0;
            const auto   codes = int8_codes(w, &scale);
            const bool   nothing = most < std::pow(2.0, -100);
            const double s = double(scale);
            CHECK(scale == (nothing ? 0.0078125f : float(most / 127)));
            for (size_t k = 0; k < n; ++k)
                if (codes[k] != (nothing ? 0 : between(nearest_even(w[k] / s), -127, 127))) FAIL("int8 code");
        }
        const Rows4  row(w);
        const bool   nothing = most / 8 < std::pow(2.0, -100);
        const double s = double(row.scale);
        CHECK(row.scale == (nothing ? 0.0078125f : float(most / 8 / 127)));
        for (size_t g = 0; g < groups; ++g) {
            const double* v = &w[32 * g];
            size_t        first = 0;
            for (size_t k = 1; k < 32; ++k)
                if (std::fabs(v[k]) > std::fabs(v[first])) first = k;
            double           best = -1;
            int              sub = 0;
            std::vector<int> codes;
            for (double d : {6.2, 6.6, 7.0, 7.3, 7.6, 8.0, 8.4})
                for (int sign = -1; sign <= 1; sign += 2) {
                    int b = between(nearest_even(double(sign) * v[first] / d / s), -127, 127);
                    if (b == 0) b = 1;
                    double           err = 0;
                    std::vector<int> c;
                    for (size_t k = 0; k < 32; ++k) {
                        c.push_back(between(nearest_even(v[k] / (s * b)), -8, 7));
                        const double miss = c[k] * (s * b) - v[k];
                        err += miss * miss;
                    }
                    if (best < 0 || err < best) best = err, sub = b, codes = c;
                }
            if (int(row.subs[g]) != sub) FAIL("sub-scale");
            for (size_t k = 0; k < 32; ++k)
                if (int(row.codes[32 * g + k]) != codes[k]) FAIL("int4 code");
        }
    }
}

TEST_CASE("files have the tensors and metadata of the golden integer models of their shape") {
    size_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(int_golden_folder())) {
        const std::string name = entry.path().filename().string();
        if (name[0] < '0' || name[0] > '9' || name.rfind("00_", 0) == 0) continue;
        ++files;
        const int_reference::File golden(read_file(entry.path().string()));
        quantize::Settings        settings;
        const random_model::Spec  s = spec_of(golden, &settings);
        const int_reference::File made(int_model(s, settings));
        CHECK_MESSAGE(table_of(made) == table_of(golden), name);
        auto want = metadata_of(golden), got = metadata_of(made);
        // What the vectors say about themselves, and what random numbers decide.
        for (const char* key : {"seed", "input_kind", "note", "digest", "clipped", "steps", "sqnr_db_vs_float", "clip",
                                "rope_fraction", "A_floor"})
            want.erase(key);
        CHECK(got.erase("quantized") == 1);
        CHECK(got.erase("source_fingerprint") == 1);
        if (s.arch == "mamba3") // made from the decimal there, here from the nearest float, which the float engine has
            CHECK(std::abs(std::stoll(want["a_floor_q26"]) - std::stoll(got["a_floor_q26"])) <= 1);
        for (auto* m : {&want, &got}) m->erase("b_frac"), m->erase("g_frac"), m->erase("a_floor_q26");
        if (want["arch"] != "s4d") want.erase("disc");
        CHECK_MESSAGE(got == want, name);
    }
    CHECK(files == 22);
}

TEST_CASE("scores of an integer model stay near those of its float model (slow)") {
    // A model of one channel and one state loses nothing; random weights of a few dozen inputs lose the least measured,
    // 38.2, 29.6 and 12.7 dB.
    const double expected[] = {35, 27, 11}; // W8A16, W8A8, W4A8
    for (const random_model::Spec& s : int_cells()) {
        const Bytes file = random_file(s);
        for (int kind = 0; kind < 3; ++kind)
            for (bool rows : {false, true}) {
                if (rows && !row_exponents_possible(s)) continue;
                quantize::Settings settings;
                settings.act16 = kind == 0, settings.int4 = kind == 2, settings.row_exponents = rows;
                const double db = drift(file, quantized(file, settings), 24, false);
                CHECK_MESSAGE(db > expected[kind], s.arch, " d_model ", s.d_model, " ", kind, " ", db);
            }
    }
}

TEST_CASE("time gaps mean the same to an integer model and its float model") {
    quantize::Settings settings;
    settings.act16 = true;
    for (const random_model::Spec& s : int_cells()) {
        if (s.arch == "s4d" && (s.disc != "zoh" || s.bands > 0)) continue; // refused there
        const Bytes  file = random_file(s);
        const double db = drift(file, quantized(file, settings), 24, true);
        CHECK_MESSAGE(db > 35, s.arch, " d_model ", s.d_model, " ", db);
    }
}

TEST_CASE("after a gap of hundreds of steps an integer model says what its float model says") {
    // Modes whose input weight is 0.002 at a step of 1 and about 2 at 1,000: it has to have room to grow.
    Builder b = s4d_model(S4dSpec{});
    for (const char* layer : {"s4_layers.0.kernel.", "s4_layers.1.kernel."}) {
        b.add(std::string(layer) + "log_dt", {12}, std::vector<float>(12, std::log(0.002f)));
        b.add(std::string(layer) + "log_A_real", {12, 3}, std::vector<float>(36, std::log(0.5f)));
        b.add(std::string(layer) + "A_imag", {12, 3}, std::vector<float>(36, 0.1f));
    }
    quantize::Settings settings;
    settings.act16 = true;
    Loaded               real(b.file());
    int_reference::Model whole(quantized(b.file(), settings));
    for (float dt : {1.0f, 10.0f, 300.0f, 1000.0f, 20000.0f}) {
        const std::vector<float> x = {0.5f, -0.25f, 1.0f};
        float                    y[2] = {};
        REQUIRE(ssm::step(real.model, &real.state, &real.scratch, x.data(), y, dt) == ssm::Status::ok);
        const auto q = whole.step(x, int_reference::to_q16(dt));
        for (size_t i = 0; i < 2; ++i) CHECK(double(q[i]) / 65536 == doctest::Approx(double(y[i])).epsilon(0.03));
    }
}

TEST_CASE("stored numbers are within half a unit of the float ones") {
    const std::pair<const char*, int> fractions[] = {{"dt_bias", 26}, {"B_bias", 20}, {"C_bias", 20}, {"", 16}};
    size_t                            compared = 0;
    for (const random_model::Spec& s : int_cells()) {
        const Golden              real(random_file(s));
        const int_reference::File whole(int_model(s));
        for (const auto& t : table_of(whole)) {
            const std::string& name = t.first;
            if (t.second.rfind("I32", 0) != 0 || (has(name, "kernel.") && !has(name, "kernel.D")) ||
                has(name, "frontend.")) // integers already
                continue;
            const bool rate = name.size() > 8 && name.compare(name.size() - 8, 8, ".mixer.A") == 0;
            const auto from = rate ? name + "_log"
                              : s.arch == "mamba1" && has(name, "dt_bias")
                                  ? name.substr(0, name.size() - 7) + "dt_proj.bias"
                                  : name;
            int        f = 0;
            for (const auto& q : fractions)
                if (f == 0 && has(name, q.first)) f = rate ? 24 : q.second;
            const auto w = real.numbers(from);
            const auto q = whole.integers(name);
            REQUIRE(w.size() == q.size());
            for (size_t i = 0; i < w.size(); ++i)
                if (std::fabs(std::ldexp(rate ? std::exp(w[i]) : w[i], f) - double(q[i])) > 0.5) FAIL(name);
            compared += w.size();
        }
    }
    CHECK(compared > 5000);
}

TEST_CASE("both spellings of S4D make the same integers") {
    S4dSpec s;
    s.layers = 2;
    for (const char* disc : {"zoh", "bilinear"}) {
        s.disc = disc;
        s.full = false;
        int_reference::File minimal(quantized(s4d_model(s).file()));
        s.full = true;
        int_reference::File full(quantized(s4d_model(s).file()));
        const Table         table = table_of(minimal);
        CHECK(table == table_of(full));
        for (const auto& t : table)
            if (t.second.rfind("F32", 0) == 0) CHECK(minimal.floats(t.first) == full.floats(t.first));
            else CHECK_MESSAGE(minimal.integers(t.first) == full.integers(t.first), t.first);
    }
}

TEST_CASE("S4D's a, b and gap tensors are those of its formulas") {
    Builder b = s4d_model(S4dSpec{});
    // One mode by hand: dt = 1/8, A = -1/2 + i pi, so z = -1/16 + i pi/8.
    b.tensors["s4_layers.0.kernel.log_dt"].data.clear();
    std::vector<float> log_dt(12, std::log(0.125f)), log_A(36, std::log(0.5f)), A_imag(36, 3.14159274f);
    b.add("s4_layers.0.kernel.log_dt", {12}, log_dt);
    b.add("s4_layers.0.kernel.log_A_real", {12, 3}, log_A);
    b.add("s4_layers.0.kernel.A_imag", {12, 3}, A_imag);
    const int_reference::File f(quantized(b.file()));
    const long double dt = std::exp((long double)(log_dt[0])), re = -std::exp((long double)(log_A[0])), im = A_imag[0];
    const long double size = std::exp(dt * re), ar = size * std::cos(dt * im), ai = size * std::sin(dt * im);
    const long double q = re * re + im * im, gr = re / q, gi = -im / q;
    const auto        near = [&](const char* name, size_t at, long double value, int frac) {
        const auto got = f.integers(std::string("s4_layers.0.kernel.") + name)[at];
        CHECK_MESSAGE(std::fabs(double(std::ldexp(value, frac)) - double(got)) <= 0.5000001, name);
    };
    near("a", 0, ar, 30), near("a", 1, ai, 30);
    near("b", 2, gr * (ar - 1) - gi * ai, 30), near("b", 3, gr * ai + gi * (ar - 1), 30);
    near("g", 4, gr, 29), near("g", 5, gi, 29);
    near("rho", 3, -dt * re, 26);
    near("phase", 3, dt * im / 6.283185307179586476925286766559L, 32);
    CHECK(f.text("b_frac") == "30"); // 31 would do for a step of 1, but over half a turn of the other layer b passes 1
    CHECK(f.text("g_frac") == "29");
}

TEST_CASE("a decay that rounds past 1 is taken back, larger part first") {
    Builder b = s4d_model(S4dSpec{});
    b.add("s4_layers.0.kernel.log_dt", {12}, std::vector<float>(12, -20.0f));
    b.add("s4_layers.0.kernel.log_A_real", {12, 3}, std::vector<float>(36, -30.0f));
    std::vector<float> turns(36);
    for (size_t i = 0; i < 36; ++i) turns[i] = float(i) * 3.1e7f;
    b.add("s4_layers.0.kernel.A_imag", {12, 3}, turns);
    quantize::Settings settings;
    settings.gaps = false;
    const int_reference::File f(quantized(b.file(), settings));
    const auto                a = f.integers("s4_layers.0.kernel.a");
    size_t                    at_the_limit = 0;
    for (size_t k = 0; k < a.size(); k += 2) {
        const int64_t size = a[k] * a[k] + a[k + 1] * a[k + 1];
        CHECK(size <= int64_t(1) << 60);
        at_the_limit += size > (int64_t(1) << 60) - (int64_t(1) << 32);
    }
    CHECK(at_the_limit == 36 * 2 - 36); // layer 0's own 36 modes
    CHECK(!f.has("s4_layers.0.kernel.rho"));
}

TEST_CASE("a checkpoint's padded vocabulary is cut and a repeated head is the embedding") {
    random_model::Spec        s = spec("mamba3,d_model=16,n_layer=1,d_state=8,headdim=8,vocab_size=13");
    const int_reference::File own(int_model(s));
    CHECK(own.shape("embedding.q8") == std::vector<int64_t>{13, 16});
    CHECK(own.shape("head.q8") == std::vector<int64_t>{13, 16});
    CHECK(own.text("head") == "linear");
    Builder tied;
    tied.metadata = {{"vocab_size", "13"}, {"d_state", "8"}, {"rope_angles", "2"}};
    s.tied = true;
    Golden file(random_file(s));
    for (int32_t i = 0; i < file.index.n_entries; ++i) {
        const ssm::Entry& e = file.index.entries[i];
        if (e.value != nullptr) continue;
        const std::string name(e.name, size_t(e.name_len));
        int64_t           dims[ssm::max_rank];
        ssm::shape_of(e, dims);
        tied.add("backbone." + name, std::vector<int64_t>(dims, dims + e.rank), file.floats(name));
        if (name == "embedding.weight")
            tied.add("lm_head.weight", std::vector<int64_t>(dims, dims + e.rank), file.floats(name));
    }
    const int_reference::File cut(quantized(tied.file())), plain(int_model(s));
    CHECK(cut.text("head") == "tied");
    CHECK(table_of(cut) == table_of(plain));
    CHECK(cut.integers("embedding.q8") == plain.integers("embedding.q8"));
}

TEST_CASE("--keep holds projections at int8, by whole name or last parts") {
    const random_model::Spec s = spec("mamba3,d_model=40,n_layer=2,d_state=8,headdim=8,mlp_hidden=24");
    quantize::Settings       settings;
    settings.int4 = true;
    const int_reference::File all(int_model(s, settings));
    // 40 columns are padded to 64; the last 3 H + S rows stay int8.
    CHECK(all.shape("layers.0.mixer.in_proj.q4") == std::vector<int64_t>{2 * 80 + 16, 32});
    CHECK(all.shape("layers.0.mixer.in_proj.sub") == std::vector<int64_t>{2 * 80 + 16, 2});
    CHECK(all.shape("layers.0.mixer.in_proj.q8") == std::vector<int64_t>{3 * 10 + 2, 40});
    CHECK(all.has("layers.1.mlp.fc2.q4"));
    settings.keep = {"layers.0.mixer.in_proj", "out_proj", "mlp.fc2"};
    const int_reference::File f(int_model(s, settings));
    CHECK(!f.has("layers.0.mixer.in_proj.q4"));
    CHECK(f.has("layers.1.mixer.in_proj.q4"));
    CHECK(!f.has("layers.0.mixer.out_proj.q4"));
    CHECK(!f.has("layers.1.mixer.out_proj.q4"));
    CHECK(!f.has("layers.1.mlp.fc2.q4"));
    CHECK(f.has("layers.1.mlp.fc1.q4"));
    settings.keep = {"ut_proj"};
    CHECK(has(error_of(random_file(s), settings, tool::bad_usage), "--keep \"ut_proj\": no projection"));
}

TEST_CASE("--snap refuses what is of another kind or was not trained for it") {
    quantize::Settings settings;
    settings.snap = true;
    for (const char* kind : {"s4d,d_model=8,n_layer=1,d_state=4,d_input=2,d_output=2",
                             "mamba3,d_model=16,n_layer=1,d_state=4,headdim=8,d_input=2,d_output=2",
                             "mamba3,d_model=16,n_layer=2,d_state=4,headdim=8,vocab_size=3"})
        CHECK(has(error_of(random_file(spec(kind)), settings, tool::bad_usage), "--snap is for Mamba-3 models of one"));
    for (uint32_t seed = 1; seed <= 6; ++seed) {
        random_model::Spec s = spec("mamba3,d_model=16,n_layer=1,d_state=4,headdim=8,vocab_size=3");
        s.seed = seed;
        CHECK(has(error_of(random_file(s), settings, tool::bad_file), "--snap: "));
    }
    quantize::Automaton automaton;
    std::string         error;
    const Bytes         file = int_model(spec("s4d,d_model=8,n_layer=1,d_state=4,d_input=2,d_output=2"));
    CHECK(!quantize::explore(std::string(file.begin(), file.end()), 9, &automaton, &error));
    CHECK(error == "reads no tokens");
}

TEST_CASE("the noise stated for a tensor is what its codes leave") {
    const random_model::Spec s = spec("mamba1,d_model=20,n_layer=1,d_state=4");
    const Bytes              file = random_file(s);
    quantize::Model          m;
    std::string              error;
    REQUIRE(quantize::make({file.data(), file.size()}, quantize::Settings(), &m, &error) == tool::done);
    const std::string         bytes = quantize::file_bytes(m);
    const int_reference::File f(Bytes(bytes.begin(), bytes.end()));
    const auto                w = Golden(file).tensor("layers.0.mixer.out_proj.weight");
    const auto                codes = f.integers("layers.0.mixer.out_proj.q8");
    const auto                scale = f.floats("layers.0.mixer.out_proj.scale");
    std::vector<double>       got(w.size());
    double                    worst = 1e9;
    int64_t                   worst_row = 0;
    for (size_t i = 0; i < w.size(); ++i) got[i] = double(codes[i]) * double(scale[i / 40]);
    for (size_t o = 0; o < 20; ++o) {
        const auto   at = std::ptrdiff_t(o * 40);
        const double db = sqnr({w.begin() + at, w.begin() + at + 40}, {got.begin() + at, got.begin() + at + 40});
        if (db < worst) worst = db, worst_row = int64_t(o);
    }
    size_t seen = 0, total = 0;
    for (const quantize::Line& l : m.lines) {
        total += l.bytes;
        if (l.name != "layers.0.mixer.out_proj.q8") continue;
        ++seen;
        CHECK(l.sqnr_db == doctest::Approx(sqnr(w, got)));
        CHECK(l.worst_db == doctest::Approx(worst));
        CHECK(l.worst_row == worst_row);
        CHECK(l.bytes == w.size() + 20 * 4);
        CHECK(l.rows == 20);
        CHECK(l.cols == 40);
    }
    CHECK(seen == 1);
    CHECK(total == m.bytes_after);
    size_t stored = 0;
    for (const quantize::Tensor& t : m.tensors) stored += t.data.size();
    CHECK(stored == m.bytes_after);
}

TEST_CASE("models that the integer format cannot hold are refused with the tensor's name") {
    const quantize::Settings plain;
    const auto with = [&](const char* name, const std::vector<int64_t>& shape, size_t count, float value) {
        Builder            b = s4d_model(S4dSpec{});
        std::vector<float> v(count, 0.25f);
        v[1] = value;
        b.add(name, shape, v);
        return b.file();
    };
    CHECK(has(error_of(with("norms.1.weight", {12}, 12, 32768.0f), plain, tool::bad_file),
              "tensor \"norms.1.weight\": index 1 gives 32768, expected below 32768 in magnitude, the range of Q16"));
    CHECK(error_of(with("norms.1.weight", {12}, 12, 32767.5f), plain, tool::done).empty());
    CHECK(has(error_of(with("decoder.bias", {2}, 2, -40000.0f), plain, tool::bad_file), "tensor \"decoder.bias\""));
    CHECK(has(error_of(with("encoder.weight", {12, 3}, 36, -127.0f), plain, tool::bad_file),
              "tensor \"encoder.weight\": row 0 reaches a scale of 1, expected below 1"));
    CHECK(has(error_of(with("s4_layers.1.kernel.C", {12, 3, 2}, 72, 32767.0f), plain, tool::bad_file),
              "tensor \"s4_layers.1.kernel.C\": channel 0 reaches 32767, expected below 32767"));
    CHECK(has(error_of(with("s4_layers.0.kernel.log_dt", {12}, 12, 20.0f), plain, tool::bad_file),
              "tensor \"s4_layers."));
    CHECK(has(error_of(with("s4_layers.0.kernel.log_A_real", {12, 3}, 36, NAN), plain, tool::bad_file), "NaN"));
    quantize::Settings rows;
    rows.row_exponents = true;
    CHECK(has(error_of(s4d_model(S4dSpec{}).file(), rows, tool::bad_usage), "--state i16rowexp"));
    S4dSpec clipped;
    clipped.clip = "1e-9";
    CHECK(has(error_of(s4d_model(clipped).file(), plain, tool::bad_file), "metadata \"clip\": found 9.99999972e-10"));
    CHECK(has(error_of(quantized(s4d_model(S4dSpec{}).file()), plain, tool::bad_file), "found ssm-int"));

    random_model::Spec s = spec("mamba3,d_model=16,n_layer=1,d_state=8,headdim=8,pool=mean");
    CHECK(has(error_of(random_file(s), plain, tool::bad_file), "metadata \"pool\": found mean"));
    s.pool = "none", s.a_floor = 32.0;
    CHECK(has(error_of(random_file(s), plain, tool::bad_file), "metadata \"a_floor\": found 32"));
    s.a_floor = 0.1, s.bare = true;
    CHECK(has(error_of(random_file(s), plain, tool::bad_file), "metadata \"scope\": found mixer"));
    const auto mamba2 = [&](const char* name, float value) {
        const Bytes bytes = random_file(spec("mamba2,d_model=8,n_layer=1,d_state=4,headdim=8"));
        Bytes       memory(ssm::index_bytes({bytes.data(), bytes.size()}));
        ssm::Index  ix;
        Bytes       changed = bytes;
        REQUIRE(ssm::read_index(&ix, {changed.data(), changed.size()}, memory.data(), memory.size()) ==
                ssm::Status::ok);
        const ssm::Entry* e = ssm::find_tensor(ix, name);
        REQUIRE(e != nullptr);
        std::memcpy(changed.data() + (ix.data - changed.data()) + e->begin, &value, 4);
        return changed;
    };
    CHECK(has(error_of(mamba2("layers.0.mixer.A_log", 5.0f), plain, tool::bad_file), "index 0 gives 148.4"));
    CHECK(has(error_of(mamba2("layers.0.mixer.A_log", -18.0f), plain, tool::bad_file), "makes a decay rate of 1.5"));
    CHECK(error_of(mamba2("layers.0.mixer.dt_bias", 1e30f), plain, tool::done).empty()); // limited to 22
    const auto wide = spec("mamba1,d_model=1,n_layer=1,d_state=1,d_inner=16385,dt_rank=1");
    CHECK(has(error_of(random_file(wide), plain, tool::bad_file), "16385 columns, expected at most 16384"));
}

TEST_CASE("no number leaves its range in the integer reference, whatever the model's numbers (slow)") {
    std::vector<random_model::Spec> cells = int_cells();
    for (const char* text : {"mamba3,d_model=8,n_layer=1,d_state=256,headdim=4,mimo_rank=8,rope_fraction=1.0",
                             "mamba3,d_model=16384,n_layer=1,d_inner=4,d_state=2,headdim=4,rope_angles=1",
                             "mamba2,d_model=4,n_layer=1,d_inner=16384,d_state=1,headdim=16384",
                             "mamba1,d_model=16,n_layer=1,d_state=256,dt_rank=3,norm=layer",
                             "s4d,d_model=4,n_layer=1,d_state=512,d_input=16384,d_output=2,pool=mean"})
        cells.push_back(spec(text)); // at the limits of the format
    uint32_t seed = 0;
    for (const random_model::Spec& s : cells)
        for (int kind = 0; kind < 4; ++kind) {
            quantize::Settings settings;
            settings.int4 = kind % 2 != 0, settings.act16 = kind == 1 || kind == 2;
            settings.row_exponents = kind >= 2 && row_exponents_possible(s);
            int_reference::Model model(extreme(int_model(s, settings), ++seed));
            const auto           width = size_t(model.d_input());
            const bool           gaps = s.arch != "s4d" || model.file().has("s4_layers.0.kernel.rho");
            std::mt19937         engine(seed);
            for (int t = 0; t < 8; ++t) {
                const int64_t any = int64_t(1 + engine() % 2147483647u);
                const int64_t dt = !gaps || t % 2 == 0 ? 65536 : t % 4 == 1 ? any : 2147483647;
                if (model.tokens()) model.step_token(int64_t(engine() % uint32_t(s.vocab_size)), dt);
                else model.step(extreme_inputs(width, seed * 100 + uint32_t(t)), dt);
            }
        }
}
