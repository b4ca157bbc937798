// checkpoint.cpp - what a checkpoint of the service says of its lessons is read strictly. SPDX-License-Identifier: MIT
#include "support.hpp"
#include "../tools/relevance.hpp"

#include <cstdio>

#include <unistd.h>

TEST_CASE(
    "a checkpoint whose counts are no three numbers is refused; they were read by what takes any text for a number") {
    char name[] = "/tmp/ssm-test-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    const std::string path = std::string(name) + "/checkpoint",
                      model = SSM_TEST_DIR "/../weights/relevance-i8.safetensors";
    relevance::Sidecar sidecar(3, memory::Limits{16, 4096}), other(3, memory::Limits{16, 4096});
    std::string        why;
    REQUIRE(sidecar.open("test", model.c_str(), ssm::Isa::best, &why));
    REQUIRE(sidecar.checkpoint(path.c_str(), &why));
    const test::Bytes whole = test::read_file(path);
    const std::string text(whole.begin(), whole.end()), key = "\"state.pairs\":\"", usual = "0 0 -1";
    const size_t      at = text.find(key + usual);
    REQUIRE(at != text.npos);
    const auto opens = [&](const char* pairs) { // of as many bytes
        std::string changed = text;
        changed.replace(at + key.size(), usual.size(), pairs);
        std::FILE* f = std::fopen(path.c_str(), "wb");
        REQUIRE(f != nullptr);
        REQUIRE(std::fwrite(changed.data(), 1, changed.size(), f) == changed.size());
        REQUIRE(std::fclose(f) == 0);
        return other.open("test", path.c_str(), ssm::Isa::best, &why);
    };
    CHECK(opens("0 0 -1"));
    CHECK(opens("7 5 31"));
    CHECK(other.pairs() == 7);
    CHECK(other.lessons() == 5);
    CHECK(other.learned_at() == 31);
    for (const char* bad : {"0 0 +1", "0 0  1", "-1 0 1", "0 0 --", "0 0 1x", "0x1 01", "00 0 1", "0 1 1 ", "000000",
                            "  0 01", "1 2 3 "}) {
        CHECK_FALSE_MESSAGE(opens(bad), bad);
        CHECK_MESSAGE(why.find("metadata \"state.pairs\": expected three numbers") != why.npos, why);
        CHECK(other.lessons() == 5); // as it was
    }
    std::remove(path.c_str());
    rmdir(name);
}
