// history.cpp - fuzz target: change histories in both formats, and the tracker that follows what was read.
//
// Beside crashes it checks what the reader promises: a line gives one complaint at most, only a header begins a commit,
// times never decrease, numbers are within their limits; and what a model is told is finite.
// SPDX-License-Identifier: MIT
#include "fuzz.hpp"

#include "../../tools/history.hpp"

#include <algorithm>
#include <cmath>

using fuzz::require;

namespace {
// The tracker has a place for every number up to the largest it meets: only small ones here, where each run is short.
constexpr int32_t most_files = 512;

void check(const history::Event& e) {
    require(e.author >= 0 && e.words.size() <= size_t(history::max_line_bytes), "an event's author and words");
    for (uint16_t w : e.words) require(w < 16384, "a word is hashed to 14 bits");
    for (const history::Op& op : e.ops) {
        require(op.kind == 'a' || op.kind == 'm' || op.kind == 'd' || op.kind == 'r', "a kind of operation");
        require(op.id >= 0 && op.id < history::max_id, "a file number");
        require((op.kind == 'a' || op.kind == 'r') || op.path.empty(), "only new names have a path");
    }
}

void follow(history::Tracker* t, const history::Event& e) {
    for (const history::Op& op : e.ops)
        if (op.id >= most_files) return;
    std::vector<int32_t> targets;
    const auto           told = [](const float* x, float dt) {
        for (int i = 0; i < history::n_features; ++i) require(std::isfinite(x[i]), "a feature is finite");
        require(dt >= 1.0f && dt <= ssm::max_dt, "a time step that a model takes");
    };
    const bool asked = t->query(e, 1, &targets);
    require(!asked || std::is_sorted(targets.begin(), targets.end()), "targets ascend");
    for (int32_t id : targets) require(t->alive(id), "a target is alive");
    t->apply(e, [&](int32_t id, const float* x, float dt) {
        require(id >= 0 && size_t(id) < t->files(), "a file that is known");
        told(x, dt);
    });
    float x[history::n_features], dt;
    for (int32_t id : targets) t->probe(id, x, &dt), told(x, dt);
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    history::Tracker tracker;
    int64_t          latest = INT64_MIN, events = 0;
    int              complaints = 0;
    history::Reader  reader(
        [&](const history::Event& e) {
            require(e.time >= latest, "times never decrease");
            latest = e.time, ++events;
            check(e);
            follow(&tracker, e);
        },
        [&](int64_t line, const std::string& what) {
            ++complaints;
            require(line == reader.lines() && !what.empty(), "a complaint names its line");
            require(what.size() < 400, "a complaint is short");
        });
    int64_t lines = 0;
    for (size_t at = 0; at <= size;) {
        const uint8_t*    end = std::find(data + at, data + size, uint8_t('\n'));
        const size_t      n = size_t(end - (data + at));
        const fuzz::Block line(data + at, n);
        at += n + 1, complaints = 0;
        reader.line(line.text(), n);
        require(complaints <= 1, "a line gives one complaint at most");
        require(reader.lines() == ++lines, "lines are counted");
        fuzz::sink = fuzz::sink + history::subject_words(line.text(), n).size();
    }
    reader.finish();
    require(reader.events() == events && !reader.open_commit(), "every commit was handed over");
    return 0;
}
