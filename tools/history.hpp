// history.hpp - change histories: reading them, the query protocol and its metrics, and what a model sees of them.
//
// A history is a stream of commits; the items are files. Two text formats are read and told apart by their first line:
//   .ev       c TIME AUTHOR W,W,...  then  a ID PATH | m ID | d ID | r ID PATH  (one operation a line)
//   git log   as printed by: git log --reverse --no-merges --name-status -M --format='commit %ct %an%x09%s'
// SPDX-License-Identifier: MIT
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

namespace history {

struct Op {
    char        kind = 'm'; // a added or back again, m modified, d deleted, r renamed
    int32_t     id = 0;
    std::string path; // a and r only
};
struct Event {
    int64_t               time = 0; // unix seconds, never decreasing
    int32_t               author = 0;
    std::vector<uint16_t> words; // hashed words of the subject
    std::vector<Op>       ops;
};

constexpr int32_t max_id = 1 << 22; // files of one history
constexpr size_t  max_line_bytes = 1 << 20;
constexpr size_t  max_ops = 1 << 20; // of one commit

// Takes a history line by line and hands over whole commits. Bad lines are reported and passed over.
class Reader {
  public:
    using OnEvent = std::function<void(const Event&)>;
    using OnError = std::function<void(int64_t line, const std::string& what)>;
    Reader(OnEvent on_event, OnError on_error) : on_event_(std::move(on_event)), on_error_(std::move(on_error)) {}

    void line(const char* text, size_t bytes); // without its newline
    void too_long();                           // a line beyond max_line_bytes was passed over
    void finish();                             // end of input: the last commit is handed over

    int64_t events() const { return events_; }
    bool    recognised() const { return format_ != Format::unknown; }
    int64_t lines() const { return line_; }
    bool    open_commit() const { return open_; }

  private:
    enum class Format { unknown, ev, git };
    void    flush();
    void    ev_line(const char* p, const char* end);
    void    git_header(const char* p, const char* end);
    void    git_status(const char* p, const char* end);
    void    add(char kind, int32_t id, std::string path);
    void    error(const std::string& what) { on_error_(line_, what); }
    int32_t author_number(const std::string& name);

    OnEvent on_event_;
    OnError on_error_;
    Format  format_ = Format::unknown;
    bool    open_ = false, skipping_ = false;
    Event   event_;
    int64_t events_ = 0, line_ = 0, latest_ = INT64_MIN;
    int32_t next_id_ = 0;
    struct Known {
        int32_t id;
        bool    alive;
    };
    std::unordered_map<std::string, Known>   by_path_; // git: path -> id
    std::unordered_map<std::string, int32_t> authors_;
};

// FNV-1a-64 modulo 16,384 of each lower-cased [A-Za-z0-9_-]+ word that is not a number; at most 32.
std::vector<uint16_t> subject_words(const char* text, size_t bytes);

// Reads a whole file; false with a reason if it cannot be read or is no history.
bool read_file(const std::string& path, std::vector<Event>* out, std::string* why);

// ---- The protocol

constexpr int32_t max_touch = 20, bulk = 50, min_candidates = 20, warm_up = 50;

struct Metrics {
    double  mrr = 0, recall10 = 0, ndcg10 = 0, hit1 = 0;
    int64_t queries = 0;
    void    add(std::vector<int32_t> ranks, int32_t n_targets); // 1-based ranks of the targets
    Metrics mean() const;
};

// What a model is told about one file at one moment, for a touch that happens now or for a probe (would the next commit
// touch it?). `gap`, commits since the file's previous touch, goes to the model as dt; these numbers are its input.
enum Feature : int {
    f_probe, // 1 for a probe, 0 for a touch
    f_rate,  // 1 / gap: makes the held input of a step count as one touch, however long the gap
    f_gap,   // log2(gap) / 8
    f_added, // touch: the file was added
    f_share, // touch: 1 / sqrt(operations of the commit)
    f_last,  // probe: the last commit touched this file
    n_features
};
extern const char* const feature_names[n_features];

// Follows a history: who is alive, what a query's candidates and targets are, the baselines' counts, and the features.
// All that the features need is the index of each file's last touch.
class Tracker {
  public:
    int64_t              index() const { return i_; } // commits applied so far = index of the next one
    size_t               files() const { return file_.size(); }
    bool                 alive(int32_t id) const { return size_t(id) < file_.size() && file_[size_t(id)].alive; }
    const std::string&   path(int32_t id) const { return file_[size_t(id)].path; }
    std::vector<int32_t> candidates() const; // alive files, ascending
    // Whether this commit, the next one, is a query; if so its targets, ascending.
    bool query(const Event& e, int32_t first, std::vector<int32_t>* targets) const; // first: warm_up by the protocol

    // Features of a probe now. dt: commits since the last touch (at least 1).
    void probe(int32_t id, float x[n_features], float* dt) const;
    // Applies a commit. `touch` is called for each file it touches (not for bulk commits), with the features of that
    // touch.
    void apply(const Event& e, const std::function<void(int32_t id, const float x[n_features], float dt)>& touch);

    double recency(int32_t id) const { return double(file_[size_t(id)].last); }
    double decayed(int32_t id) const; // frequency with a half-life of 10 commits

  private:
    struct File {
        bool        alive = false;
        int64_t     last = -1;    // protocol: index of the last touch (of a bulk commit only if it was never touched)
        int64_t     touched = -1; // stream: index of the last touch, or of the bulk commit that brought the file
        double      d10 = 0;      // touches, decayed with a half-life of 10 commits, as of `at`
        int64_t     at = 0;
        std::string path;
    };
    void              fill(const File& f, float x[n_features], float* dt) const;
    int64_t           i_ = 0;
    std::vector<File> file_;
};

// Ranks of the targets when candidates are ordered by score, ties by ascending id. `order` (may be null): ids, best
// first.
std::vector<int32_t> rank_targets(const std::vector<int32_t>& candidates, const std::vector<float>& scores,
                                  const std::vector<int32_t>& targets, std::vector<int32_t>* order = nullptr);

} // namespace history
