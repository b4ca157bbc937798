// tool.cpp - what the verbs share: escaping, messages, reading lines, saving files, records between cut points.
// SPDX-License-Identifier: MIT
#include "../tools/score.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {
using namespace tool;

struct Folder { // a temporary one
    std::string path;
    Folder() {
        char name[] = "/tmp/ssm-test-XXXXXX";
        REQUIRE(mkdtemp(name) != nullptr);
        path = name;
    }
    ~Folder() {
        if (std::system(("rm -rf '" + path + "'").c_str()) != 0) std::puts("a temporary folder stays");
    }
};

// Everything a LineReader makes of some bytes that come `piece` at a time through a pipe.
std::vector<std::string> lines_of(const std::string& bytes, size_t piece) {
    int fd[2];
    REQUIRE(pipe(fd) == 0);
    const pid_t child = fork();
    if (child == 0) {
        close(fd[0]);
        for (size_t at = 0; at < bytes.size(); at += piece)
            if (write(fd[1], bytes.data() + at, std::min(piece, bytes.size() - at)) < 0) break;
        _exit(0);
    }
    close(fd[1]);
    Output                   out(-1);
    LineReader               reader(fd[0], &out, nullptr);
    std::vector<std::string> all;
    for (std::string_view line;;) {
        const LineReader::Result r = reader.next(&line);
        if (r == LineReader::Result::line) all.push_back(std::to_string(reader.number()) + ":" + std::string(line));
        else if (r == LineReader::Result::too_long) all.push_back(std::to_string(reader.number()) + "!");
        else {
            CHECK(r == LineReader::Result::end);
            break;
        }
    }
    close(fd[0]);
    waitpid(child, nullptr, 0);
    return all;
}
} // namespace

TEST_CASE("F-02: names are escaped for terminals, cut, and never a format") {
    CHECK(escape("plain name") == "plain name");
    CHECK(escape(std::string_view("a\0b", 3)) == "a\\x00b");
    CHECK(escape("\x1b[2J\r\n\t\x7f") == "\\x1b[2J\\x0d\\x0a\\x09\\x7f");
    CHECK(escape("\"it's\\\"") == "\\x22it\\x27s\\x5c\\x22");
    CHECK(escape("\"it's\\\"", 80, "\"'\\") == "\"it's\\\"");
    CHECK(escape("%s%n") == "%s%n");
    CHECK(escape("\xc3\xa9 \xf0\x9f\x98\x80") == "\xc3\xa9 \xf0\x9f\x98\x80");
    for (const char* bidi :
         {"\xe2\x80\xae", "\xe2\x80\x8f", "\xe2\x81\xa6", "\xd8\x9c", "\xef\xbb\xbf", "\xc2\x85", "\xe2\x80\xa8"})
        CHECK(escape(bidi).substr(0, 3) == "\\u{");
    CHECK(escape("\xff\xc0\x80\xed\xa0\x80\xf5") ==
          "\\xff\\xc0\\x80\\xed\\xa0\\x80\\xf5"); // never, overlong, surrogate, too large
    CHECK(escape("\xe2\x80") == "\\xe2\\x80");    // cut short
    CHECK(escape(std::string(80, 'x')) == std::string(80, 'x'));
    CHECK(escape(std::string(81, 'x')) == std::string(77, 'x') + "...");
    for (size_t n = 70; n < 90; ++n) {
        const std::string s = escape(std::string(n, 'x') + "\x1b\xe2\x80\xae" + std::string(50, 'y'));
        CHECK(s.size() <= max_name_bytes);
        CHECK(s.substr(s.size() - 3) == "...");
    }
}

TEST_CASE("N-11: floats are printed with nine digits, which bring every float back") {
    const float all[] = {0.0f, -0.0f, 0.1f, 1.0f / 3.0f, 1e-45f, 3.40282347e38f, -1.17549435e-38f, 16777217.0f};
    for (float v : all) {
        std::string text;
        append_float(&text, v);
        float back = 1.0f;
        CHECK(ssm::parse_float(text.data(), text.size(), &back) == text.size());
        CHECK(std::memcmp(&v, &back, 4) == 0);
    }
    std::string text;
    append_json_float(&text, std::numeric_limits<float>::quiet_NaN());
    CHECK(text == "null");
    for (float sign : {1.0f, -1.0f}) { // processors make NaN of either sign
        text.clear();
        append_float(&text, std::copysign(std::numeric_limits<float>::quiet_NaN(), sign));
        CHECK(text == "nan");
    }
}

TEST_CASE("F-02: a fault becomes one sentence") {
    ssm::Fault f;
    std::strcpy(f.name, "a\\u001bb");
    f.detail = "a dimension does not fit the model", f.has_numbers = true, f.want = 3, f.got = 4;
    CHECK(describe(ssm::Status::bad_shape, f) ==
          "tensor \"a\\u001bb\": a dimension does not fit the model: expected 3, got 4");
    f.detail = "holds NaN or Inf, at the index given", f.got = 17;
    CHECK(describe(ssm::Status::bad_value, f) == "tensor \"a\\u001bb\": holds NaN or Inf at index 17");
    f.detail = "missing; number of missing tensors given", f.got = 2;
    CHECK(describe(ssm::Status::missing_tensor, f) == "tensor \"a\\u001bb\": missing, 2 missing in all");
    CHECK(describe(ssm::Status::bad_header, ssm::Fault()) == ssm::message(ssm::Status::bad_header));
}

TEST_CASE("S-01 S-04 S-09: lines, whatever the pieces they come in") {
    const std::string              text = "one\r\n\ntwo\n\r\nthree\rfour\n\n last";
    const std::vector<std::string> want = {"1:one", "2:", "3:two", "4:", "5:three\rfour", "6:", "7: last"};
    for (size_t piece = 1; piece <= text.size(); ++piece) CHECK(lines_of(text, piece) == want);
    CHECK(lines_of("", 1).empty());
    CHECK(lines_of("\n", 1) == std::vector<std::string>{"1:"});
    CHECK(lines_of("x\r", 1) == std::vector<std::string>{"1:x"});

    const std::string full(max_line_bytes, 'x');
    for (size_t piece : {size_t(1000), size_t(65536), size_t(1) << 22}) {
        CHECK(lines_of(full + "\na\n", piece) == std::vector<std::string>{"1:" + full, "2:a"});
        CHECK(lines_of(full + "\r\na\n", piece) == std::vector<std::string>{"1:" + full, "2:a"});
        CHECK(lines_of(full + "x\na\n", piece) == std::vector<std::string>{"1!", "2:a"});
        CHECK(lines_of(full + "xx\na\n", piece) == std::vector<std::string>{"1!", "2:a"});
        CHECK(lines_of(full + full + full + "\n\na", piece) == std::vector<std::string>{"1!", "2:", "3:a"});
        CHECK(lines_of(full, piece) == std::vector<std::string>{"1:" + full});
        CHECK(lines_of(full + "x", piece) == std::vector<std::string>{"1!"});
        CHECK(lines_of(full + full, piece) == std::vector<std::string>{"1!"});
    }
}

TEST_CASE("P-05: a saved file is the old one or the new one") {
    Folder            folder;
    const std::string path = folder.path + "/state";
    std::string       got;
    REQUIRE(save_file("test", path.c_str(), "old") == done);
    REQUIRE(save_file("test", path.c_str(), std::string(100000, 'n')) == done);
    REQUIRE(read_file("test", path.c_str(), 100000, &got) == done);
    CHECK(got == std::string(100000, 'n'));
    CHECK(access((path + ".tmp").c_str(), F_OK) != 0);
    CHECK(read_file("test", path.c_str(), 99999, &got) == bad_file);

    REQUIRE(mkdir((path + ".tmp").c_str(), 0700) == 0); // in the way of the temporary file
    CHECK(save_file("test", path.c_str(), "newer") == io_error);
    REQUIRE(read_file("test", path.c_str(), 100000, &got) == done);
    CHECK(got == std::string(100000, 'n'));
    REQUIRE(rmdir((path + ".tmp").c_str()) == 0);
    REQUIRE(symlink("/etc/passwd", (path + ".tmp").c_str()) == 0); // not to be followed
    CHECK(save_file("test", path.c_str(), "newer") == io_error);
    CHECK(save_file("test", folder.path.c_str(), "x") == io_error); // a folder
    CHECK(save_file("test", (folder.path + "/no/such").c_str(), "x") == io_error);
}

TEST_CASE("P-03: score, save, restore, score: the same bits at every cut") {
    const std::string model = std::string(SSM_TEST_DIR) + "/golden/s4d/03_postnorm_mean_h16_n8_l2.safetensors";
    OpenModel         m;
    REQUIRE(open_model("test", model.c_str(), ssm::Isa::best, 2, 8, &m) == done);
    ssm::State   state, other;
    ssm::Scratch scratch;
    REQUIRE(ssm::make_state(&state, m.model, &m.arena) == ssm::Status::ok);
    REQUIRE(ssm::make_state(&other, m.model, &m.arena) == ssm::Status::ok);
    REQUIRE(ssm::make_scratch(&scratch, m.model, 8, &m.arena) == ssm::Status::ok);
    Output out(-1), err(-1);
    Scorer scorer(m.model, &state, &scratch, &out, &err), again(m.model, &other, &scratch, &out, &err);
    for (int i = 0; i < 120; ++i) {
        std::string saved(ssm::saved_bytes(m.config), '\0');
        REQUIRE(ssm::save(m.model, state, saved.data(), saved.size()) == saved.size());
        ssm::reset(m.model, &other);
        REQUIRE(ssm::restore(m.model, &other, saved.data(), saved.size()) == ssm::Status::ok);
        const std::string record =
            "dt=" + std::to_string(i % 3 + 1) + " 0." + std::to_string(i) + " -0.5 " + std::to_string(i % 7);
        CHECK(again.line("nonsense", 1) == false); // N-03: as if it had not been sent
        out.memory().clear();
        CHECK(again.line(record, 1));
        const std::string first = out.memory();
        out.memory().clear();
        CHECK(scorer.line(record, 1));
        CHECK(out.memory() == first);
    }
}
