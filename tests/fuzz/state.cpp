// state.cpp - fuzz target: saved states of float and integer models, of sound, and of the service's memory.
//
// The first byte chooses a model, the rest is the file. One that is refused leaves the state as it was; one that is
// accepted is saved to the same bytes, and goes on from there with the same bits on scalar code and on another
// back-end, to a state that can be saved and restored in its turn. SPDX-License-Identifier: MIT
#include "models.hpp"

#include "../../tools/relevance.hpp"

#include <algorithm>
#include <cmath>

using fuzz::require;

namespace {
struct Kind {
    std::vector<std::unique_ptr<fuzz::Rig>> on; // one a back-end, scalar first
    std::string                             home, saved;
    std::vector<float>                      x;
};

std::vector<Kind> make_kinds() {
    std::vector<Kind> all;
    for (const std::string& file : fuzz::model_files()) {
        Kind k;
        for (ssm::Isa isa : fuzz::back_ends()) k.on.push_back(std::make_unique<fuzz::Rig>(file, 1, isa));
        fuzz::Rig&         r = *k.on[0];
        std::vector<float> y(size_t(r.config.d_output));
        for (int32_t i = 0; i < r.config.d_input; ++i) k.x.push_back(float(i % 5) / 4 - 0.5f);
        for (int i = 0; i < 3; ++i)
            require(ssm::step(r.model, &r.state, &r.scratch, k.x.data(), y.data()) == ssm::Status::ok, "a step");
        k.home = r.bytes();
        k.saved.resize(ssm::saved_bytes(r.config));
        require(ssm::save(r.model, r.state, k.saved.data(), k.saved.size()) == k.saved.size(), "save");
        all.push_back(std::move(k));
    }
    return all;
}
std::vector<Kind>& kinds() {
    static std::vector<Kind> all = make_kinds();
    return all;
}

void put(fuzz::Rig* r, const std::string& bytes) { std::memcpy(r->state.data, bytes.data(), bytes.size()); }

void check(Kind& k, size_t which, const fuzz::Block& file) {
    fuzz::Rig& r = *k.on[0];
    put(&r, k.home);
    ssm::Fault fault;
    if (ssm::restore(r.model, &r.state, file.data(), file.size(), &fault) != ssm::Status::ok) {
        require(r.holds(k.home), "a state that is refused changes nothing");
        require(fault.detail[0] != '\0', "a refusal has a reason");
        return;
    }
    std::string again(ssm::saved_bytes(r.config), '\0');
    require(ssm::save(r.model, r.state, again.data(), again.size()) == file.size() && again.size() == file.size() &&
                std::memcmp(again.data(), file.data(), again.size()) == 0,
            "a state that is accepted is saved to the same bytes");
    fuzz::Rig& other = *k.on[1 + which % (k.on.size() - 1)];
    require(ssm::restore(other.model, &other.state, file.data(), file.size()) == ssm::Status::ok, "on every back-end");
    std::vector<float> y(size_t(r.config.d_output)), want(y.size());
    for (int i = 0; i < 2; ++i) {
        require(ssm::step(r.model, &r.state, &r.scratch, k.x.data(), want.data()) == ssm::Status::ok, "it goes on");
        require(ssm::step(other.model, &other.state, &other.scratch, k.x.data(), y.data()) == ssm::Status::ok,
                "on both");
        require(fuzz::same_floats(y, want) && other.holds(r.bytes()), "both give the same bits");
    }
    // From numbers near the largest float the layers overflow; their NaN reaches parts that have no clip.
    const size_t saved = ssm::save(r.model, r.state, again.data(), again.size());
    require(saved == again.size() || (saved == 0 && !ssm::is_integer(r.config)), "it is saved again");
    require(saved == 0 || ssm::restore(other.model, &other.state, again.data(), again.size()) == ssm::Status::ok,
            "and restored");
}

// The memory of the service: its state is as long as what happened.
struct Memory {
    relevance::Sidecar sidecar{4, memory::Limits{16, 4096}};
    std::string        home;
    Memory() {
        for (uint64_t i = 1; i < 6; ++i) {
            const uint64_t   items[2] = {i * 1000003, i % 2 + 7};
            const float      embedding[4] = {1, float(i), 0, -1};
            relevance::Event e;
            e.items = items, e.n_items = 2, e.embedding = embedding, e.seconds = double(i);
            sidecar.observe(e);
        }
        sidecar.state(&home);
    }
};
Memory& service() {
    static Memory m;
    return m;
}
void check(const fuzz::Block& file) {
    Memory&     m = service();
    std::string why, now;
    const bool  taken = m.sidecar.take_state(file.data(), file.size(), &why);
    m.sidecar.state(&now);
    if (!taken) {
        require(now == m.home && !why.empty(), "a state that is refused changes nothing, with a reason");
        return;
    }
    require(now.size() == file.size() && std::memcmp(now.data(), file.data(), now.size()) == 0,
            "it is saved to the same bytes");
    const relevance::Candidate candidates[3] = {};
    float                      logits[3];
    m.sidecar.score(relevance::Context(), candidates, 3, logits);
    const uint64_t   item = 7;
    relevance::Event e;
    e.items = &item, e.n_items = 1, e.seconds = 1;
    m.sidecar.observe(e);
    for (float v : logits) require(v >= -50 && v <= 50, "logits are finite");
    require(m.sidecar.take_state(reinterpret_cast<const unsigned char*>(m.home.data()), m.home.size(), &why),
            "its own");
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    const fuzz::Block file(data + 1, size - 1);
    const size_t      n = kinds().size();
    if (data[0] % (n + 1) == n) check(file);
    else check(kinds()[data[0] % (n + 1)], data[0] / (n + 1), file);
    return 0;
}

// Nothing but a state with a true checksum passes the first look, so mutations begin with one and make it true again.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    const size_t n = kinds().size();
    if (seed % 16 == 0 || size < 40) {
        const size_t       k = seed / 16 % (n + 1);
        const std::string& from = k == n ? service().home : kinds()[k].saved;
        size = std::min(from.size() + 1, max_size);
        data[0] = uint8_t(k);
        std::memcpy(data + 1, from.data(), size - 1);
    }
    const size_t before = size;
    if (seed % 8 < 6) { // behind the header
        const size_t at = std::min<size_t>(size, seed % 2 != 0 ? 65 : 1 + seed / 64 % 64);
        size = at + LLVMFuzzerMutate(data + at, size - at, max_size - at);
    } else size = LLVMFuzzerMutate(data, size, max_size);
    if (seed % 4 < 3) { // of the length it had
        for (; size < before; ++size) data[size] = 0;
        size = before;
    }
    if (seed % 32 != 5 && size > 0) fuzz::repair_state(data + 1, size - 1);
    return size;
}
