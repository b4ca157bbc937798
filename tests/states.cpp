// states.cpp - saved states and the objects beside them: the layout byte by byte, every prefix and every bit of files
// of both engines, plain bytes that may be copied, weights in memory that cannot be written.
// SPDX-License-Identifier: MIT
#include "int_models.hpp"

#include <type_traits>

#include <sys/mman.h>
#include <unistd.h>

using namespace test;
using ssm::Status;

namespace {
const char* const small_shapes[] = {
    "s4d,d_model=4,n_layer=1,d_state=4,d_input=2,d_output=2,pool=mean",
    "mamba1,d_model=4,n_layer=1,d_state=2,d_input=2,d_output=2",
    "mamba2,d_model=4,n_layer=1,d_state=2,headdim=4,d_input=2,d_output=2",
    "mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,d_input=2,d_output=2",
    "mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,mimo_rank=2,d_input=2,d_output=2",
};
struct Model {
    std::string name;
    Bytes       file;
};
std::vector<Model> models() {
    std::vector<Model> all;
    for (const char* text : small_shapes) {
        const random_model::Spec s = spec(text);
        all.push_back({std::string("float ") + text, random_file(s)});
        all.push_back({std::string("integer ") + text, int_model(s)});
        if (!row_exponents_possible(s)) continue;
        quantize::Settings settings;
        settings.row_exponents = true;
        all.push_back({std::string("integer, 16 bits, ") + text, int_model(s, settings)});
    }
    return all;
}
// A state in the midst of a stream, as it is saved.
Bytes saved(Loaded& m) {
    const auto x = random_inputs(20 * size_t(m.config.d_input));
    REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 20, nullptr) == Status::ok);
    Bytes b(ssm::saved_bytes(m.config));
    REQUIRE(ssm::save(m.model, m.state, b.data(), b.size()) == b.size());
    return b;
}
uint64_t number_at(const Bytes& b, size_t at, size_t bytes) { // little-endian, whatever this machine is
    uint64_t v = 0;
    for (size_t i = bytes; i-- > 0;) v = v << 8 | b[at + i];
    return v;
}
} // namespace

TEST_CASE("P-01 P-06: what stands where in a saved state, read byte by byte as little-endian") {
    for (const Model& f : models()) {
        CAPTURE(f.name);
        Loaded      m(f.file);
        const Bytes b = saved(m);
        CHECK(std::string(b.begin(), b.begin() + 8) == "SSMSTATE");
        CHECK(number_at(b, 8, 4) == 1);           // version
        CHECK(number_at(b, 12, 4) == 0x01020304); // byte order
        CHECK(number_at(b, 16, 8) == b.size());
        CHECK(number_at(b, 24, 8) == m.model.fingerprint);
        CHECK(number_at(b, 48, 4) == uint64_t(m.config.state) + 1); // element type
        CHECK(number_at(b, 52, 4) <= 1);                            // whether anything was clipped
        CHECK(number_at(b, 56, 8) == 20);                           // steps
        uint32_t crc = 0xffffffffu;                                 // CRC-32, as zip has it
        for (size_t i = 0; i + 4 < b.size(); ++i) {
            crc ^= b[i];
            for (int k = 0; k < 8; ++k) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xedb88320u : 0);
        }
        CHECK(number_at(b, b.size() - 4, 4) == uint32_t(~crc));
        // Every number of the state stands in it, in four bytes of its own.
        if (ssm::is_integer(m.config)) continue;
        for (float v : part_of(m.model, m.state, 0, ssm::Part::ssm_state)) {
            uint32_t bits;
            std::memcpy(&bits, &v, 4);
            size_t at = 64;
            while (at + 8 <= b.size() && number_at(b, at, 4) != bits) at += 4;
            CHECK(at + 8 <= b.size());
        }
    }
}

TEST_CASE("P-06: a state written down byte by byte here is restored, on every machine") {
    // S4D, 8 channels of 1 mode without clip; h is 1 and -2 in each, five steps, then the sum of outputs.
    Loaded     m(random_file(spec("s4d,d_model=8,n_layer=1,d_state=2,d_input=1,d_output=1,pool=none")));
    Bytes      b = saved(m);
    const auto put = [&](size_t at, std::initializer_list<int> bytes) {
        for (int v : bytes) b[at++] = static_cast<unsigned char>(v);
    };
    put(56, {5, 0, 0, 0, 0, 0, 0, 0});
    for (size_t at = 64; at + 4 < b.size(); at += 4)
        at / 4 % 2 == 0 ? put(at, {0x00, 0x00, 0x80, 0x3f}) : put(at, {0x00, 0x00, 0x00, 0xc0});
    repair_checksum(&b);
    REQUIRE(ssm::restore(m.model, &m.state, b.data(), b.size()) == Status::ok);
    CHECK(ssm::steps_of(m.model, m.state) == 5);
    size_t ones = 0, twos = 0;
    for (float v : part_of(m.model, m.state, 0, ssm::Part::ssm_state)) ones += v == 1.0f, twos += v == -2.0f;
    CHECK(ones == 8);
    CHECK(twos == 8);
    Bytes again(b.size());
    CHECK(ssm::save(m.model, m.state, again.data(), again.size()) == again.size());
    CHECK(again == b);
}

TEST_CASE("P-07: the size is known before, and a state is saved to memory of just that size and no less") {
    for (const Model& f : models()) {
        Loaded      m(f.file);
        const Bytes good = saved(m);
        CHECK(ssm::save(m.model, m.state, nullptr, 0) == ssm::saved_bytes(m.config));
        CHECK(good.size() == ssm::saved_bytes(m.config));
        Bytes less(good.size() - 1, 0x55);
        CHECK(ssm::save(m.model, m.state, less.data(), less.size()) == 0);
        CHECK(less == Bytes(good.size() - 1, 0x55));
        for (size_t skew = 0; skew < 9; ++skew) { // at any address
            Bytes room(good.size() + 16, 0x55);
            CHECK(ssm::save(m.model, m.state, room.data() + skew, good.size()) == good.size());
            CHECK(std::memcmp(room.data() + skew, good.data(), good.size()) == 0);
            CHECK(room[skew + good.size()] == 0x55);
            CHECK(ssm::restore(m.model, &m.state, room.data() + skew, good.size()) == Status::ok);
        }
    }
}

TEST_CASE("P-02 P-04: every prefix and every single bit of states of all cells, both engines") {
    size_t flips = 0, prefixes = 0, refused = 0;
    for (const Model& f : models()) {
        Loaded      m(f.file);
        const Bytes good = saved(m), before = state_of(m);
        REQUIRE(good.size() <= 4096);
        const auto judge = [&](const Bytes& b) {
            ssm::Fault why;
            refused += ssm::restore(m.model, &m.state, b.data(), b.size(), &why) == Status::bad_state &&
                       why.detail[0] != '\0' && state_of(m) == before;
        };
        for (size_t n = 1; n < good.size(); ++n) judge(Bytes(good.begin(), good.begin() + long(n))), ++prefixes;
        for (size_t bit = 0; bit < good.size() * 8; ++bit, ++flips) {
            Bytes b = good;
            b[bit / 8] = static_cast<unsigned char>(b[bit / 8] ^ 1u << bit % 8);
            judge(b);
        }
        CHECK(ssm::restore(m.model, &m.state, good.data(), good.size()) == Status::ok);
    }
    CHECK(refused == flips + prefixes);
    MESSAGE("counted: saved states, prefixes and single bits, ", refused, " of ", flips + prefixes, " refused");
}

TEST_CASE(
    "C-05: a state is plain bytes: copied to another place it goes on the same, and equal streams have equal bytes") {
    static_assert(std::is_trivially_copyable_v<ssm::State> && std::is_standard_layout_v<ssm::State>);
    static_assert(std::is_trivially_copyable_v<ssm::Model> && std::is_trivially_copyable_v<ssm::Config>);
    for (const Model& f : models())
        for (ssm::Isa isa : all_back_ends()) {
            Loaded             m(f.file, 4, isa);
            const size_t       d = size_t(m.config.d_input);
            const auto         x = random_inputs(24 * d);
            std::vector<float> y(size_t(m.config.d_output)), z = y;
            REQUIRE(ssm::prefill(m.model, &m.state, &m.scratch, x.data(), 12, nullptr) == Status::ok);
            OwnState copy(m.model, m.state), moved(copy);
            std::memset(copy.bytes.data(), 0xff, copy.bytes.size()); // where it came from is gone
            for (size_t t = 12; t < 24; ++t) {
                REQUIRE(ssm::step(m.model, &m.state, &m.scratch, &x[t * d], y.data()) == Status::ok);
                REQUIRE(ssm::step(m.model, &moved.state, &m.scratch, &x[t * d], z.data()) == Status::ok);
                REQUIRE_MESSAGE(same_bits(y, z), f.name);
                REQUIRE_MESSAGE(moved.bytes == state_of(m), f.name);
            }
        }
}

TEST_CASE("C-01 E-05: weights in read-only pages at any address, and a model that nothing writes to") {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    for (const Model& f : models())
        for (size_t skew : {size_t(0), size_t(1), size_t(3), size_t(8)}) {
            Loaded       want(f.file, 4);
            const size_t bytes = (f.file.size() + skew + page - 1) / page * page;
            void* const  at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            REQUIRE(at != MAP_FAILED);
            unsigned char* const weights = static_cast<unsigned char*>(at) + skew;
            std::memcpy(weights, f.file.data(), f.file.size());
            REQUIRE(mprotect(at, bytes, PROT_READ) == 0); // a write ends the test
            // The tables that load() makes, in pages of their own, read-only as soon as it is done.
            const size_t size = (ssm::arena_bytes(want.config, 0, 1) + page - 1) / page * page;
            void* const  tables = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            REQUIRE(tables != MAP_FAILED);
            ssm::Arena arena{tables, size, 0};
            ssm::Model m;
            REQUIRE(ssm::load(&m, {weights, f.file.size()}, &arena) == Status::ok);
            REQUIRE(mprotect(tables, size, PROT_READ) == 0);
            OwnState           s(m);
            const size_t       d = size_t(m.config.d_input);
            const auto         x = random_inputs(16 * d);
            std::vector<float> y(4 * size_t(m.config.d_output)), z = y;
            ssm::reset(m, &s.state);
            for (const ssm::Model* each : {&m, &want.model}) {
                ssm::State* state = each == &m ? &s.state : &want.state;
                float*      out = each == &m ? y.data() : z.data();
                REQUIRE(ssm::prefill(*each, state, &want.scratch, x.data(), 8, out) == Status::ok);
                REQUIRE(ssm::step(*each, state, &want.scratch, &x[8 * d], out) == Status::ok);
                REQUIRE(ssm::step_batch(*each, *state, &want.scratch, &x[9 * d], 4, out) == Status::ok);
                Bytes saved_state(ssm::saved_bytes(want.config));
                REQUIRE(ssm::save(*each, *state, saved_state.data(), saved_state.size()) == saved_state.size());
                REQUIRE(ssm::restore(*each, state, saved_state.data(), saved_state.size()) == Status::ok);
            }
            CHECK_MESSAGE(same_bits(y, z), f.name);
            CHECK(s.bytes == state_of(want));
            munmap(at, bytes), munmap(tables, size);
        }
}

TEST_CASE("F-04: what is said of arguments, arenas, builds and states that are refused") {
    Loaded      m(models()[0].file);
    const Bytes good = saved(m), file = m.bytes;
    ssm::Fault  why;
    Bytes       room(m.arena_memory.size());
    ssm::Arena  arena{room.data(), room.size(), 0};
    ssm::Model  other;
    const auto  says = [&](Status got, Status want, const char* sentence) {
        CHECK(got == want);
        CHECK(std::string(why.detail) == sentence);
        why = ssm::Fault();
    };
    const auto restored = [&](const Bytes& b) { return ssm::restore(m.model, &m.state, b.data(), b.size(), &why); };
    says(restored(Bytes(good.begin(), good.begin() + 67)), Status::bad_state, "shorter than a saved state's header");
    Bytes damaged = good;
    damaged[good.size() - 9] ^= 1;
    says(restored(damaged), Status::bad_state, "checksum does not match: the file is damaged");
    Loaded integer(models()[1].file);
    Bytes  beyond = saved(integer);
    REQUIRE(models()[1].name.find("s4d") != std::string::npos); // h in words, of which the least is none
    for (size_t k = 0; k < 4; ++k) beyond[beyond.size() - 8 + k] = k == 3 ? 0x80 : 0;
    repair_checksum(&beyond);
    says(ssm::restore(integer.model, &integer.state, beyond.data(), beyond.size(), &why), Status::bad_state,
         "holds a value beyond its format");
    ssm::Index index;
    says(ssm::read_index(nullptr, m.blob(), room.data(), room.size(), &why), Status::bad_argument, "no index given");
    says(ssm::read_index(&index, {nullptr, 9}, room.data(), room.size(), &why), Status::bad_argument, "no data given");
    ssm::Arena small{room.data(), 100, 0};
    says(ssm::load(&other, m.blob(), &small, {}, &why), Status::arena_too_small, "the arena is too small");
    ssm::LoadOptions options;
    options.softplus_A = true;
    says(ssm::load(&other, m.blob(), &arena, options, &why), Status::unsupported,
         "only a float Mamba-3 model can be told to have a softplus A");
    options = {};
    ssm::Config expected = m.config;
    expected.d_model += 1, options.expect = &expected;
    says(ssm::load(&other, m.blob(), &arena, options, &why), Status::config_mismatch,
         "the file's shape is not the one this program expects");
    options = {};
    options.isa = ssm::Isa(200);
    says(ssm::load(&other, m.blob(), &arena, options, &why), Status::unsupported,
         "this back-end is not in this build or not on this CPU");
    options = {};
    CHECK(ssm::load(&other, m.blob(), &arena, options, &why) == Status::ok);
}
