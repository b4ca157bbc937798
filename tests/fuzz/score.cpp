// score.cpp - fuzz target: records, text and JSON, against small models made in memory.
//
// Beside crashes it checks what the protocol promises: a bad record leaves the state as it was and is answered by
// exactly one line; a candidate leaves the state as it was; no record gets more than one line. A first byte below 9
// chooses another model: of tokens, of sound, of integers. SPDX-License-Identifier: MIT
#include "models.hpp"

#include "../../tools/score.hpp"

#include <algorithm>

using fuzz::require;

namespace {
fuzz::Rig& rig_of(const uint8_t** data, size_t* size) {
    static std::vector<std::unique_ptr<fuzz::Rig>> all;
    if (all.empty())
        for (size_t k : {0u, 2u, 4u, 6u}) { // S4D, sound, Mamba-2, tokens
            const std::string file = random_model::file(fuzz::shape(fuzz::shapes[k]));
            all.push_back(std::make_unique<fuzz::Rig>(file, 4));
            all.push_back(std::make_unique<fuzz::Rig>(fuzz::integers(file, quantize::Settings()), 4));
        }
    if (*size == 0 || **data > 8) return *all[0];
    fuzz::Rig& chosen = *all[**data % all.size()];
    ++*data, --*size;
    return chosen;
}
} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fuzz::Rig&   rig = rig_of(&data, &size);
    tool::Output out(-1), err(-1);
    tool::Scorer scorer(rig.model, &rig.state, &rig.scratch, &out, &err);
    ssm::reset(rig.model, &rig.state);
    uint64_t number = 0;
    for (size_t at = 0; at <= size;) {
        // Each line in a block of its own size, so that a read past its end is seen.
        const uint8_t*    end = std::find(data + at, data + size, uint8_t('\n'));
        const size_t      n = size_t(end - (data + at));
        const fuzz::Block line(data + at, n);
        at += n + 1;

        const std::string before = rig.bytes();
        out.memory().clear(), err.memory().clear();
        const bool         good = scorer.line(std::string_view(line.text(), n), ++number);
        const std::string &answer = out.memory(), &complaint = err.memory();
        require(answer.empty() || answer.back() == '\n', "an answer is a whole line");
        require(std::count(answer.begin(), answer.end(), '\n') <= 1, "one answer at most");
        require(std::count(complaint.begin(), complaint.end(), '\n') <= 1 &&
                    complaint.size() <= tool::max_message_bytes,
                "one complaint at most");
        if (!good) {
            require(rig.holds(before), "a bad record does not move the state");
            require(answer.empty() != complaint.empty(), "a bad record has one error line");
            require(!complaint.empty() ||
                        answer.find("\"error\":\"line " + std::to_string(number) + ": ") != answer.npos,
                    "it names the line");
        } else require(complaint.empty(), "a good record has no error");
        const std::string_view text(line.text(), n);
        const size_t           begin = text.find_first_not_of(" \t");
        if (begin != text.npos && text[begin] == '?') require(rig.holds(before), "a candidate does not move the state");
        if (!answer.empty() && answer[0] == '{') { // an answer to JSON is JSON
            ssm::json::Reader r = ssm::json::open(answer.data(), answer.size());
            ssm::json::Token  t;
            do t = ssm::json::next(&r);
            while (t.kind != ssm::json::Kind::error && t.kind != ssm::json::Kind::end);
            require(t.kind == ssm::json::Kind::end, "an answer to JSON is JSON");
        }
        for (char c : complaint)
            require(c == '\n' || static_cast<unsigned char>(c) >= 0x20, "no control character in a complaint");
    }
    return 0;
}
