// rank.cpp - `ssm rank`: which files of a project will the next change touch?
// SPDX-License-Identifier: MIT
#include "next.hpp"
#include "tool.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace {
using namespace tool;

const char help[] =
    "usage: ssm rank MODEL [--query WORDS] [--top K] [--backtest F] [--ranks FILE] [--isa NAME] < HISTORY\n"
    "\n"
    "Reads a change history on standard input and prints the files most likely to be touched next, best first:\n"
    "score, a tab, path. A history is what this prints,\n"
    "\n"
    "  git log --reverse --no-merges --name-status -M --format='commit %ct %an%x09%s'\n"
    "\n"
    "or an .ev file (lines: c TIME AUTHOR WORDS, then a ID PATH, m ID, d ID, r ID PATH). One recurrent state is kept\n"
    "for each file.\n"
    "\n"
    "  --query WORDS  which files does this task touch? What it is about, in the words of a commit's subject; needs a\n"
    "                 model of task relevance, which also remembers the words of past commits\n"
    "  --top K        how many files to print (default 10; 0: none)\n"
    "  --backtest F   replay the history and measure the ranking over its last fraction F (0 < F <= 1), beside\n"
    "                 recency and decayed frequency; commits are kept in memory for it. A model of task\n"
    "                 relevance is told each commit's words, author and time\n"
    "  --ranks FILE   with --backtest: for each commit measured its index and the file numbers, best first\n"
    "\n"
    "Exit status 1 if lines of the history could not be used.\n";

// Model and baselines, one line each.
std::string table(const next::Backtest& b) {
    std::string s;
    char        line[160];
    std::snprintf(line, sizeof line, "%-18s %8s %10s %8s %8s\n", "ranking", "MRR", "recall@10", "NDCG@10", "hit@1");
    s += line;
    const struct {
        const char*      name;
        history::Metrics m;
    } rows[] = {{"this model", b.model.mean()}, {"decayed frequency", b.decayed.mean()}, {"recency", b.recency.mean()}};
    for (const auto& r : rows) {
        std::snprintf(line, sizeof line, "%-18s %8.4f %10.4f %8.4f %8.4f\n", r.name, r.m.mrr, r.m.recall10, r.m.ndcg10,
                      r.m.hit1);
        s += line;
    }
    return s;
}
} // namespace

int verb_rank(int argc, char** argv) {
    int64_t     top = 10;
    double      fraction = 0;
    const char *ranks = nullptr, *query = nullptr;
    ssm::Isa    isa = ssm::Isa::best;
    Options     options("rank", help);
    options.integer("--top", &top, 0, 1 << 22)
        .number("--backtest", &fraction, 0.001, 1)
        .text("--ranks", &ranks)
        .text("--query", &query)
        .isa(&isa);
    int status = options.read(argc, argv, 1, 1);
    if (status != go_on) return status;
    if (ranks != nullptr && fraction <= 0) return fail(bad_usage, "rank", "--ranks goes with --backtest");

    const char* path = options.operands[0];
    OpenModel   m;
    if ((status = open_model("rank", path, isa, 0, next::batch, &m)) != done) return status;
    ssm::Scratch scratch;
    if (ssm::make_scratch(&scratch, m.model, next::batch, &m.arena) != ssm::Status::ok)
        return fail(bad_file, "rank", escape(path) + ": no room for its scratch");
    std::string                                why;
    const std::unique_ptr<next::HistoryRanker> ranker = next::open_ranker(m, scratch, memory::Limits(), &why);
    if (ranker == nullptr) return fail(bad_file, "rank", escape(path) + ": " + why);
    std::string task;
    m.metadata("task", &task);
    if (query != nullptr && task != "relevance")
        return fail(bad_usage, "rank", "--query goes with a model of task relevance, this one's is " + escape(task));

    // 1. The history. Without a backtest each commit is taken up as it comes and forgotten.
    Output                      out(1), err(2);
    std::vector<history::Event> events;
    history::Event              last; // the latest commit
    int64_t                     bad = 0;
    bool                        refused = false;
    std::string                 first; // the first trouble, held back until a commit shows that this is a history
    const history::Reader*      reading = nullptr;
    const auto                  say_first = [&] {
        const int64_t more = bad - 1;
        if (!first.empty())
            complain("rank", "standard input: " + first +
                                                  (more > 0 ? " (and " + std::to_string(more) + " more before the first commit)" : ""));
        first.clear();
    };
    const auto trouble = [&](int64_t line, const std::string& what) {
        const std::string text = "line " + std::to_string(line) + ": " + escape(what, 300, "\"");
        if (reading->events() > 0 || reading->open_commit()) {
            say_first();
            complain("rank", "standard input: " + text);
        } else if (bad == 0) first = text;
        ++bad;
    };
    history::Reader reader(
        [&](const history::Event& e) {
            if (fraction > 0) events.push_back(e);
            else last = e, refused |= !ranker->apply(e);
        },
        trouble);
    reading = &reader;
    LineReader       in(0, &out, &err);
    std::string_view line;
    for (bool more = true; more;) switch (in.next(&line)) {
        case LineReader::Result::line:
            reader.line(line.data(), line.size());
            break;
        case LineReader::Result::too_long:
            reader.too_long();
            break;
        case LineReader::Result::error:
            return fail(io_error, "rank", "standard input: " + system_error(in.error()));
        case LineReader::Result::stopped:
        case LineReader::Result::end:
            more = false;
            break;
        }
    reader.finish();
    if (refused) return fail(some_failed, "rank", "standard input: a step was refused");
    if (reader.events() == 0)
        return fail(some_failed, "rank",
                    std::string("standard input: ") +
                        (reader.lines() == 0 ? "empty, expected a change history" : "no commit found") +
                        (first.empty() ? "" : "; " + first) + " (see ssm rank --help)");
    say_first();

    // 2. The measure over the past, then the ranking of now.
    if (fraction > 0) {
        const int32_t  warm_up = int32_t(std::min<int64_t>(history::warm_up, int64_t(events.size()) / 2));
        next::Backtest b;
        std::string    lines;
        const auto keep = [&](int64_t i, const std::vector<int32_t>& order) { lines += next::ranks_line(i, order); };
        if (!next::backtest(ranker.get(), events, task == "relevance", fraction, warm_up, &b,
                            ranks != nullptr ? keep : std::function<void(int64_t, const std::vector<int32_t>&)>()))
            return fail(some_failed, "rank", "standard input: a step was refused");
        out.write("backtest: " + std::to_string(b.model.queries) + " queries in the last " +
                  std::to_string(int64_t(events.size()) - b.from) + " of " + std::to_string(events.size()) +
                  " commits\n");
        if (warm_up < history::warm_up)
            out.write("(a short history: queries begin at commit " + std::to_string(warm_up) + " instead of " +
                      std::to_string(history::warm_up) + ")\n");
        if (b.model.queries > 0) out.write(table(b));
        else out.write("(a query needs at least 20 files, of which the commit touches 1 to 20)\n");
        if (ranks != nullptr && (status = save_file("rank", ranks, lines)) != done) return status;
        if (top > 0) out.write("\n");
    }
    if (top > 0) {
        if (fraction > 0) last = events.back();
        history::Event coming; // asked now: nothing says that time has passed
        coming.time = last.time, coming.author = last.author;
        if (query != nullptr) coming.words = history::subject_words(query, std::strlen(query));
        const std::vector<int32_t> candidates = ranker->tracker().candidates();
        const std::vector<float>   scores = ranker->scores(candidates, query != nullptr ? &coming : nullptr);
        std::vector<size_t>        order(candidates.size());
        for (size_t i = 0; i < order.size(); ++i) order[i] = i;
        std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
        for (size_t i = 0; i < std::min(order.size(), size_t(top)); ++i) {
            char score[32];
            std::snprintf(score, sizeof score, "%.4f", double(scores[order[i]]));
            out.write(std::string(score) + "\t" + escape(ranker->tracker().path(candidates[order[i]]), 4096, "'\"") +
                      "\n");
        }
    }
    status = finish("rank", &out);
    return status != done ? status : bad > 0 ? some_failed : done;
}
