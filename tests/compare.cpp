// compare.cpp - what `ssm compare` computes: the numbers integer tensors stand for, the drift of outputs.
// SPDX-License-Identifier: MIT
#include "int_models.hpp"
#include "../tools/compare.hpp"

using namespace test;

namespace {
ssm::Blob blob_of(const Bytes& b) { return {b.data(), b.size()}; }

double sqnr(const compare::Values& want, const compare::Values& got) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < want.v.size(); ++i)
        signal += want.v[i] * want.v[i], noise += (want.v[i] - got.v[i]) * (want.v[i] - got.v[i]);
    return noise > 0 ? 10 * std::log10(signal / noise) : HUGE_VAL;
}
} // namespace

TEST_CASE("the numbers of an integer model are those of its float model, as near as the converter says") {
    std::vector<random_model::Spec> cells = int_cells();
    for (const random_model::Spec& s : cells) {
        const Golden       real(random_file(s));
        quantize::Settings settings;
        settings.int4 = s.d_model % 8 == 0;
        quantize::Model m;
        std::string     error;
        REQUIRE(quantize::make(blob_of(real.bytes), settings, &m, &error) == tool::done);
        const std::string text = quantize::file_bytes(m);
        const Golden      whole(Bytes(text.begin(), text.end()));
        CHECK(compare::is_integer_model(whole.index));
        CHECK(!compare::is_integer_model(real.index));
        compare::Table want, got = compare::integer_values(whole.index);
        REQUIRE(compare::float_values(real.index, blob_of(real.bytes), true, &want, &error) == tool::done);
        CHECK(want.size() == got.size());
        std::map<std::string, double> noise; // int4 and int8 rows of one projection together
        for (const auto& t : want) {
            REQUIRE_MESSAGE(got.count(t.first) == 1, t.first);
            compare::Values other = got[t.first];
            if (other.cols > t.second.cols) { // int4 alone: padded
                compare::Values cut{other.rows, t.second.cols, {}};
                for (int64_t i = 0; i < other.rows * other.cols; ++i)
                    if (i % other.cols < cut.cols) cut.v.push_back(other.v[size_t(i)]);
                other = cut;
            }
            CHECK_MESSAGE(other.rows == t.second.rows, t.first);
            REQUIRE_MESSAGE(other.v.size() == t.second.v.size(), t.first);
            noise[t.first] = sqnr(t.second, other);
        }
        for (const quantize::Line& l : m.lines) {
            const std::string end = l.name.size() > 3 ? l.name.substr(l.name.size() - 3) : "";
            const bool        codes = end == ".q8" || end == ".q4";
            const std::string name = codes ? l.name.substr(0, l.name.size() - 3) + ".weight" : l.name;
            if (codes && l.rows != want[name].rows) continue; // a part
            if (std::isinf(l.sqnr_db)) CHECK_MESSAGE(std::isinf(noise[name]), name);
            else CHECK_MESSAGE(noise[name] == doctest::Approx(l.sqnr_db), name);
        }
    }
}

TEST_CASE("float models are compared by names without a prefix") {
    const Golden   file(SSM_TEST_DIR "/golden/mamba/m2_lm2_d32_hfnames.safetensors");
    compare::Table t;
    std::string    error;
    REQUIRE(compare::float_values(file.index, blob_of(file.bytes), false, &t, &error) == tool::done);
    CHECK(t.count("embedding.weight") == 1);
    CHECK(t.count("layers.1.mixer.conv1d.weight") == 1);
    CHECK(t["layers.1.mixer.conv1d.weight"].cols == 4);
    CHECK(t.count("test.input") == 0);
}

TEST_CASE("drift counts what was added, in all and since the row before") {
    compare::Drift drift(2);
    const auto     add = [&](float a0, float a1, float b0, float b1) {
        const float a[] = {a0, a1}, b[] = {b0, b1};
        drift.add(a, b);
    };
    add(3, 4, 3, 4); // no difference
    for (int i = 0; i < 9; ++i) add(1, 2, 1, 2.5f);
    add(10, 0, 0, 10);
    drift.end();
    drift.end();
    REQUIRE(drift.table().size() == 3);
    const auto& rows = drift.table();
    CHECK(rows[0].steps == 1);
    CHECK(std::isinf(rows[0].sqnr_db));
    CHECK(rows[1].steps == 10);
    CHECK(rows[1].sqnr_db == doctest::Approx(10 * std::log10((25.0 + 9 * 5) / (9 * 0.25))));
    CHECK(rows[1].window_db == doctest::Approx(10 * std::log10(5 / 0.25)));
    CHECK(rows[1].largest == 0.5);
    CHECK(rows[1].agree == 1.0);
    CHECK(rows[2].steps == 11);
    CHECK(rows[2].window_db == doctest::Approx(10 * std::log10(0.5)));
    CHECK(rows[2].largest == 10);
    CHECK(rows[2].agree == doctest::Approx(10.0 / 11));
    CHECK(drift.curve().back().steps == 11);
    CHECK(compare::Drift(1).table().empty());
}
