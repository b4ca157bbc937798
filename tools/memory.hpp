// memory.hpp - the associative memory of a stream: its last events, read by content, and a record of each item.
//
// An event is a set of words (hashed), who caused it, and the items it touched. The last events are kept as they are in
// a ring of bytes; reading asks, for each candidate, in which of them it was and how much those have to do with the
// words at hand. That is exact where sums of outer products would mix up what they store: at the sizes meant here
// (a quarter of a megabyte, some 8,000 events) it is also smaller. What leaves the ring is forgotten but for the items'
// records (count, decayed counts, first and last touch). Beyond `items` items the one touched longest ago is dropped.
//
// Numbers are the same on every machine: integers, and floating-point sums in a fixed order with our own logarithm.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_MEMORY_HPP
#define SSM_TOOLS_MEMORY_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace memory {

constexpr int max_words = 32;          // of a text
constexpr int max_item_words = 24;     // kept of an item's own text
constexpr int max_read_words = 12;     // of a query: those known from events first, then the rare ones
constexpr int max_items_of_event = 50; // with more an event is bulk: its items are known from then on, nothing else
constexpr int n_words_hashed = 16384;

// Distinct hashed words: FNV-1a-64 modulo 16,384 of each lower-cased [A-Za-z0-9_-]+ run that is not a number.
struct Words {
    uint16_t hash[max_words];
    int      n = 0;
    void     add(uint16_t h); // unless it is there or there is no room
};
Words    words_of(const char* text, size_t bytes);
Words    path_words(const std::string& path);  // runs as above, and their parts cut at changes of case and at digits
uint64_t key_of(const char* id, size_t bytes); // FNV-1a-64 of an id, never 0

struct Touch {
    uint64_t     key = 0;         // not 0
    uint64_t     group = 0;       // what it belongs to (a folder); 0: nothing
    const Words* words = nullptr; // of the item's own text; null: as before
    bool         added = false;   // new, or back again
    bool         grouped = false; // `group` is told (else: as before)
};
struct Event {
    Words        words;
    uint64_t     author = 0; // 0: nobody in particular
    double       seconds = 0; // since the event before
    const Touch* touches = nullptr;
    size_t       n_touches = 0;
};
struct Query {
    bool     asked = true; // false: nothing is known of the coming event, its words, author and time
    Words    words;
    uint64_t author = 0;
    double   seconds = 0; // since the latest event
};
struct Probe {
    uint64_t     key = 0;         // 0: an item without a name
    const Words* words = nullptr; // of its own text; null: those it was last touched with
};

// What the model is told about an item, at a touch or of a candidate. The first ones are those of history::Feature.
enum Input : int {
    in_probe,  // 1 for a candidate, 0 for a touch
    in_rate,   // 1 / gap: makes the held input of a step count as one touch, however long the gap
    in_gap,    // log2(gap) / 8; gap: events since the item's previous touch, the step's dt
    in_added,  // touch: the item was added
    in_share,  // touch: 1 / sqrt(items of the event)
    in_last,   // candidate: the latest event touched this item
    in_asked,  // the query has words, an author, a time
    n_touch_inputs = in_asked, // of a touch, all that follow are 0
    // The words of the query in earlier events of the item. y: those events; df: events with the word.
    in_word = n_touch_inputs + 1, // sum of idf * y / (df + 1)
    in_word_fading,               // its logarithm, events counted less if old (half-life 300) or large
    in_word_best,                 // the largest term of the sum
    in_word_own,                  // sum of idf * y / (touches + 1)
    in_word_recent,               // sum of idf * fading y, at most 3 a word
    in_word_known,                // share of the words with y > 0
    in_likelihood,                // sum of log(P(word | item) / P(word)), smoothed by the group's
    in_likelihood_group,          // the same of the group
    in_posterior,                 // log(P(item)) + in_likelihood
    // Whole events that resemble the query: cosine of idf-weighted words.
    in_like_best,  // the largest cosine, less if the event was large
    in_like_sum,   // log of the sum of cosine^2, old and large events count less
    in_like_close, // log of the sum of cosine^4
    in_like_group, // log of the sum of cosine^2 over events of the item's group
    in_word_group, // as in_word for the group
    // The words of the query in the item's own text. files: items with the word.
    in_text,      // sum of log(1 + items / files)
    in_text_n,    // words found
    in_text_best, // the largest term
    // Who asks.
    in_author,       // log of the author's share of events with the item, fading
    in_author_own,   // the author's share of the item's touches
    in_author_group, // ... of the group's
    in_author_last,  // the author's latest event touched it
    // Company: items that came together with those of the last three events.
    in_company, in_company_log,
    in_group_last, // the latest event touched its group
    // The item itself.
    in_age, in_seconds, in_touches, in_fading_10, in_fading_100, in_group_fading, in_group_touches,
    // The stream.
    in_events, in_words, in_like_any, in_like_latest, in_same_author, in_pause,
    n_inputs
};
extern const char* const input_names[n_inputs];

struct Limits {
    uint32_t items = 4096;             // at most 65,535
    uint32_t event_bytes = 256 * 1024; // of the ring; 4,096 to 737,280
};

class Memory {
  public:
    explicit Memory(Limits limits);

    // Takes an event. `touched` is called for each item of an event that is not bulk, once, with its slot, whether the
    // slot was given to this item just now, its inputs [n_touch_inputs] and the time step, in events.
    using Touched = std::function<void(uint32_t slot, bool fresh, const float* x, float dt)>;
    void apply(const Event& e, const Touched& touched);

    // Inputs of candidates: x[n][n_inputs], dt[n], slot[n] (none: an item that is not kept). The memory does not change.
    static constexpr uint32_t none = 0xffffffffu;
    void read(const Query& q, const Probe* probes, size_t n, float* x, float* dt, uint32_t* slot) const;

    void   reset();
    Limits limits() const { return limits_; }
    size_t state_bytes() const; // all that apply() writes to
    size_t   items() const { return n_items_; }
    uint64_t key(uint32_t slot) const { return item_[slot].key; }
    size_t events() const { return n_events_; } // in the ring
    size_t steps() const { return now_; }       // events taken
    Words  latest_words() const;                // of the latest event in the ring

    // The state as little-endian bytes, appended. And back: bytes taken, or 0 if they do not begin with a state of a
    // memory with these limits; nothing has changed then.
    void   save(std::string* out) const;
    size_t load(const unsigned char* p, size_t bytes);

  private:
    struct Item {
        uint64_t key = 0; // 0: free
        uint32_t group = none;
        uint32_t born = 0, first = 0, touched = 0, at = 0; // event numbers: slot taken, first seen, last touch, of the counts
        uint32_t touches = 0;
        float    fading_10 = 0, fading_100 = 0;
        double   seconds = 0; // the clock at its last touch
        uint16_t n_words = 0;
        uint16_t words[max_item_words] = {};
    };
    struct Group {
        uint64_t key = 0;
        uint32_t born = 0, at = 0, touches = 0;
        float    fading_10 = 0;
    };
    struct Record { // of an event in the ring; what follows it: words, then slots, 16 bits each
        uint32_t event, author;
        uint8_t  n_words, n_items;
    };
    static constexpr size_t record_bytes = 10;

    // Keys to slots: linear probing, entries move back when one is taken out.
    struct Table {
        std::vector<uint32_t> at; // slot + 1; 0: empty
        void                  open(size_t slots);
        template <class Of> uint32_t find(uint64_t key, const Of& of) const;
        template <class Of> void     put(uint64_t key, uint32_t slot, const Of& of);
        template <class Of> void     drop(uint64_t key, const Of& of);
    };
    template <class List> static uint32_t take(List* list, Table* table, size_t* n, uint64_t key, uint32_t now, bool* fresh);

    uint32_t      item_slot(uint64_t key, bool* fresh);
    uint32_t      group_slot(uint64_t key);
    void          set_words(Item* item, const Words& words);
    void          forget(Item* item); // its words leave the counts
    void          push(const Record& r, const uint16_t* words, const uint16_t* slots);
    size_t        next(size_t offset, Record* r, const uint16_t** words, const uint16_t** slots) const;
    void          fill(const Item* item, float* x, float* dt) const;
    double        log_of(uint32_t n) const; // of an integer above 0

    Limits                     limits_;
    std::vector<Item>          item_;
    std::vector<Group>         group_;
    Table                      item_table_, group_table_;
    size_t                     n_items_ = 0, n_groups_ = 0;
    std::vector<uint16_t>      ring_;                     // event_bytes / 2, the oldest first
    size_t                     used_ = 0, n_events_ = 0;  // of the ring
    uint32_t                   latest_[3] = {none, none, none}; // where the latest events begin
    std::vector<uint16_t>      events_with_, items_with_;           // [n_words_hashed]
    uint32_t                   now_ = 0;                            // the number of the next event
    double                     clock_ = 0;                          // seconds
};

double log_natural(double x); // x > 0; the same bits everywhere
double exp_natural(double x); // |x| < 700; the same bits everywhere

} // namespace memory
#endif
