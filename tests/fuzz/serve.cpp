// serve.cpp - fuzz target: lines for `ssm serve`.
//
// Beside crashes it checks what the protocol promises: each line that is not blank gets one answer, a line of JSON in
// UTF-8 with either a result or an error; what is answered with an error has not moved the state; no score is null.
// SPDX-License-Identifier: MIT
#include "fuzz.hpp"

#include "../hostile_lines.hpp"

#include <algorithm>

using fuzz::require;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    // A service of its own for each input, made anew only where the one before answered something: making one takes
    // longer than most lines. Small, so that it is soon full.
    static std::unique_ptr<relevance::Sidecar> made;
    if (made == nullptr) made = std::make_unique<relevance::Sidecar>(4, memory::Limits{64, 4096});
    relevance::Sidecar& sidecar = *made;
    bool                used = false;
    std::string         answer;
    serve::Rpc          rpc(&sidecar, 4, false);
    for (size_t at = 0; at <= size;) {
        // Each line in a block of its own size, so that a read past its end is seen.
        const uint8_t*    end = std::find(data + at, data + size, uint8_t('\n'));
        const size_t      n = size_t(end - (data + at));
        const fuzz::Block line(data + at, n);
        at += n + 1;

        const uint64_t steps = sidecar.steps(), pairs = sidecar.pairs();
        answer.clear();
        rpc.line({line.text(), n}, &answer);
        if (std::string_view(line.text(), n).find_first_not_of(" \t\r") == std::string_view::npos) {
            require(answer.empty(), "a blank line has no answer");
            continue;
        }
        bool failed = false;
        require(test::well_formed(answer, &failed), "an answer is a line of JSON with a result or an error");
        used = used || !failed;
        require(!failed || (sidecar.steps() == steps && sidecar.pairs() == pairs),
                "a bad line does not move the state");
        require(answer.find("\"score\":n") == answer.npos, "no score is null");
    }
    if (used) made.reset();
    return 0;
}
