// limits.cpp - every limit that ssm.hpp names: a model at it loads and runs, in floats and in integers; one past it is
// refused by the number. Limits of headers and lines are tested where those are: load.cpp, cli.sh, serve.sh.
// SPDX-License-Identifier: MIT
#include "int_models.hpp"
#include "../tools/tool.hpp"

using namespace test;
using ssm::Status;

namespace {
// What load() says of a file: "ok" if it also takes a step.
std::string verdict(const Bytes& file) {
    const ssm::Blob blob{file.data(), file.size()};
    Bytes           memory(ssm::index_bytes(blob));
    ssm::Config     c;
    ssm::Fault      fault;
    Status          s = ssm::inspect(&c, blob, memory.data(), memory.size(), &fault);
    if (s != Status::ok) return tool::describe(s, fault);
    Bytes        room(ssm::arena_bytes(c));
    ssm::Arena   arena{room.data(), room.size(), 0};
    ssm::Model   m;
    ssm::State   state;
    ssm::Scratch scratch;
    s = ssm::load(&m, blob, &arena, {}, &fault);
    if (s != Status::ok) return tool::describe(s, fault);
    REQUIRE(ssm::make_state(&state, m, &arena) == Status::ok);
    REQUIRE(ssm::make_scratch(&scratch, m, 1, &arena) == Status::ok);
    std::vector<float> x(size_t(c.d_input), 0.25f), y(size_t(c.d_output), NAN);
    if (ssm::step(m, &state, &scratch, x.data(), y.data()) != Status::ok) return "no step";
    for (float v : y)
        if (!std::isfinite(v)) return "no finite output";
    return "ok";
}
// One more of something that the maker of models would not make.
Bytes with(const std::string& text, const std::string& tensor, const std::vector<int64_t>& shape) {
    Builder          b = parts_of_file(random_file(spec(text)));
    Builder::Tensor& t = b.tensors.at(tensor);
    size_t           n = 4;
    for (int64_t d : shape) n *= size_t(d);
    t.shape = shape, t.data.resize(n, 0);
    return b.file();
}
} // namespace

TEST_CASE("F-07: widths, states, ranks, taps, bands and frames at their limits run in both engines (slow)") {
    for (const char* text : {
             "s4d,d_model=2,n_layer=1,d_state=512,d_input=2,d_output=2",                   // d_state
             "s4d,d_model=2,n_layer=1,d_state=2,d_input=16384,d_output=2",                 // d_input
             "s4d,d_model=2,n_layer=1,d_state=2,d_input=2,d_output=16384",                 // d_output
             "s4d,d_model=2,n_layer=1,d_state=2,d_input=4096,bands=64,d_output=2",         // bands, frame
             "mamba1,d_model=2,n_layer=1,d_state=256,d_inner=2,dt_rank=1",                 // d_state
             "mamba1,d_model=2,n_layer=1,d_state=1,d_inner=2,dt_rank=1,d_conv=8",          // d_conv
             "mamba2,d_model=2,n_layer=1,d_state=256,headdim=4,d_conv=8",                  // both
             "mamba3,d_model=2,n_layer=1,d_state=256,headdim=4,rope_angles=1",             // d_state
             "mamba3,d_model=4,n_layer=1,d_state=4,headdim=4,mimo_rank=8,rope_angles=1",   // ranks
             "mamba3,d_model=16384,n_layer=1,d_inner=4,d_state=2,headdim=4,rope_angles=1", // d_model
             "mamba1,d_model=2,n_layer=1,d_inner=16384,d_state=1,dt_rank=1",               // d_inner
             "mamba1,d_model=2,n_layer=1,d_inner=2,d_state=1,dt_rank=1,mlp_hidden=16384",  // MLP
         }) {
        CHECK_MESSAGE(verdict(random_file(spec(text))) == "ok", std::string(text), ", floats");
        CHECK_MESSAGE(verdict(int_model(spec(text))) == "ok", std::string(text), ", integers");
    }
}

TEST_CASE("F-07: one past each limit is refused by the number, floats (integers: int_load.cpp)") {
    const struct {
        const char*          model;
        const char*          tensor;
        std::vector<int64_t> shape;
        const char*          want;
    } cases[] = {
        {"s4d,d_model=2,n_layer=1,d_state=4,d_input=2,d_output=2",
         "s4_layers.0.kernel.A_imag",
         {2, 257},
         "a dimension is beyond this build's limit: expected 256, got 257"},
        {"s4d,d_model=2,n_layer=1,d_state=4,d_input=2,d_output=2",
         "encoder.weight",
         {2, 16385},
         "a dimension is beyond this build's limit: expected 16384, got 16385"},
        {"s4d,d_model=2,n_layer=1,d_state=4,d_input=2,d_output=2",
         "encoder.weight",
         {16385, 2},
         "a dimension is beyond this build's limit: expected 16384, got 16385"},
        {"s4d,d_model=2,n_layer=1,d_state=4,d_input=2,d_output=2",
         "decoder.weight",
         {16385, 2},
         "a dimension is beyond this build's limit: expected 16384, got 16385"},
        {"s4d,d_model=2,n_layer=1,d_state=2,d_input=128,bands=64,d_output=2",
         "frontend.poles",
         {65, 2},
         "a dimension is beyond this build's limit: expected 64, got 65"},
        {"mamba1,d_model=2,n_layer=1,d_state=2,d_inner=2,dt_rank=1",
         "layers.0.mixer.A_log",
         {2, 257},
         "a dimension is beyond this build's limit: expected 256, got 257"},
        {"mamba1,d_model=2,n_layer=1,d_state=2,d_inner=2,dt_rank=1",
         "layers.0.mixer.conv1d.weight",
         {2, 1, 9},
         "a dimension is beyond this build's limit: expected 8, got 9"},
        {"mamba1,d_model=2,n_layer=1,d_state=2,d_inner=2,dt_rank=1",
         "layers.0.mixer.out_proj.weight",
         {16385, 2},
         "a dimension is beyond this build's limit: expected 16384, got 16385"},
        {"mamba1,d_model=2,n_layer=1,d_state=2,d_inner=2,dt_rank=1",
         "layers.0.mixer.out_proj.weight",
         {2, 65537},
         "a dimension is beyond this build's limit: expected 65536, got 65537"},
        {"mamba3,d_model=2,n_layer=1,d_state=4,headdim=4",
         "layers.0.mixer.B_bias",
         {1, 1, 257},
         "a dimension is beyond this build's limit: expected 256, got 257"},
        {"mamba3,d_model=2,n_layer=1,d_state=4,headdim=4,mimo_rank=8",
         "layers.0.mixer.B_bias",
         {1, 9, 4},
         "a dimension is beyond this build's limit: expected 8, got 9"},
    };
    for (const auto& c : cases)
        CHECK(verdict(with(c.model, c.tensor, c.shape)) == "tensor \"" + std::string(c.tensor) + "\": " + c.want);
}

TEST_CASE("F-07: 256 layers run, 257 are refused, every architecture and engine (slow)") {
    for (const char* text :
         {"s4d,d_model=1,d_state=2,d_input=1,d_output=1,n_layer=", "mamba1,d_model=1,d_state=1,dt_rank=1,n_layer=",
          "mamba2,d_model=1,d_state=1,headdim=2,n_layer=",
          "mamba3,d_model=1,d_state=2,headdim=2,rope_angles=1,n_layer="}) {
        const random_model::Spec most = spec(text + std::string("256"));
        CHECK_MESSAGE(verdict(random_file(most)) == "ok", std::string(text));
        CHECK_MESSAGE(verdict(int_model(most)) == "ok", std::string(text));
        random_model::Spec more = most;
        more.n_layer = 257;
        const std::string said = verdict(random_file(more));
        const bool        s4d = more.arch == "s4d"; // says the number; Mamba finds a layer without a place
        CHECK_MESSAGE((said.find(s4d ? "more layers than this build's limit: expected 256, got 257"
                                     : "the model has no place for this tensor") != said.npos),
                      said);
    }
}

TEST_CASE("F-07: 1,048,576 tokens are read, one more row is not (slow)") {
    CHECK(verdict(random_file(spec("mamba1,d_model=1,n_layer=1,d_state=1,dt_rank=1,vocab_size=1048576"))) == "ok");
    CHECK(verdict(random_file(spec("mamba1,d_model=1,n_layer=1,d_state=1,dt_rank=1,vocab_size=1048577"))) ==
          "tensor \"embedding.weight\": a dimension is beyond this build's limit: expected 1048576, got 1048584");
}

TEST_CASE("F-07: a batch of 65,536 rows is scored, one more is refused; so are inputs and gaps past their limits (slow)") {
    for (bool integer : {false, true}) {
        const random_model::Spec s = spec("s4d,d_model=1,n_layer=1,d_state=2,d_input=1,d_output=1,pool=none");
        Loaded                   m(integer ? int_model(s) : random_file(s), ssm::max_batch);
        std::vector<float>       x(size_t(ssm::max_batch), 0.5f), y(x.size(), NAN);
        REQUIRE(ssm::step_batch(m.model, m.state, &m.scratch, x.data(), ssm::max_batch, y.data()) == Status::ok);
        CHECK(y.front() == y.back());
        CHECK(ssm::make_scratch(&m.scratch, m.model, ssm::max_batch + 1, &m.arena) == Status::bad_argument);
        const float beyond = std::nextafter(ssm::max_input, HUGE_VALF), late = std::nextafter(ssm::max_dt, HUGE_VALF);
        for (float v : {ssm::max_input, -ssm::max_input})
            CHECK(ssm::step(m.model, &m.state, &m.scratch, &v, y.data()) == Status::ok);
        for (float v : {beyond, -beyond}) // integers have their own limit, at which inputs and gaps saturate
            CHECK(ssm::step(m.model, &m.state, &m.scratch, &v, y.data()) == (integer ? Status::ok : Status::bad_input));
        if (integer && !m.config.has_gaps) continue;
        CHECK(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data(), late) ==
              (integer ? Status::ok : Status::bad_input));
        CHECK(ssm::step(m.model, &m.state, &m.scratch, x.data(), y.data(), ssm::max_dt) == Status::ok);
    }
}
