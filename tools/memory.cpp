// memory.cpp - the associative memory of a stream.
// SPDX-License-Identifier: MIT
#include "memory.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

// Products and sums are not fused: the same bits on every machine.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

namespace memory {

// ---- Logarithm and exponential, without the C library's

double log_natural(double x) {
    uint64_t bits = 0;
    int      e = -1022;
    if (x < 0x1p-1022) x *= 0x1p54, e -= 54; // of numbers that are not normal
    std::memcpy(&bits, &x, sizeof bits);
    e += int(bits >> 52);
    bits = (bits & 0xfffffffffffffu) | uint64_t(1022) << 52;
    double m = 0; // [0.5, 1)
    std::memcpy(&m, &bits, sizeof m);
    if (m < 0.70710678118654752) m *= 2, --e;
    const double s = (m - 1) / (m + 1), q = s * s; // log m = 2 artanh s, |s| < 0.172
    const double sum = ((((((((1.0 / 17 * q + 1.0 / 15) * q + 1.0 / 13) * q + 1.0 / 11) * q + 1.0 / 9) * q + 1.0 / 7) * q +
                          1.0 / 5) * q + 1.0 / 3) * q + 1.0);
    return 2 * s * sum + e * 0.69314718055994531;
}

double exp_natural(double x) {
    const double n = std::floor(x * 1.4426950408889634 + 0.5); // r: with log 2 in two parts, |r| < 0.347
    const double r = x - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
    double       sum = 1;
    for (int k = 12; k >= 1; --k) sum = 1 + sum * r / k;
    return std::ldexp(sum, int(n));
}

namespace {
constexpr double ln2 = 0.69314718055994531;
double           fade(uint32_t events, double half_life) { return exp_natural(-ln2 / half_life * double(events)); }

// Of small integers and small ages, half-life 300 events. Made once: every load of a state makes a memory anew.
struct Tables {
    std::vector<float>  logs;
    std::vector<double> fades;
    Tables() {
        for (uint32_t i = 0; i < 8192; ++i) {
            logs.push_back(i > 0 ? float(log_natural(i)) : 0.0f);
            fades.push_back(fade(i, 300));
        }
    }
};
const Tables& tables() {
    static const Tables all;
    return all;
}

bool upper(char c) { return c >= 'A' && c <= 'Z'; }
bool lower(char c) { return c >= 'a' && c <= 'z'; }
bool digit(char c) { return c >= '0' && c <= '9'; }

constexpr uint64_t fnv_start = 0xcbf29ce484222325u, fnv_prime = 0x100000001b3u;

double fade_of(uint32_t age) {
    const std::vector<double>& fades = tables().fades;
    return age < fades.size() ? fades[age] : fade(age, 300);
}

uint16_t hash_of(const char* p, const char* end) { // lower-cased
    uint64_t h = fnv_start;
    for (; p < end; ++p) h = (h ^ static_cast<unsigned char>(upper(*p) ? *p + 32 : *p)) * fnv_prime;
    return uint16_t(h % n_words_hashed);
}

// Calls `word` with each run of [A-Za-z0-9_-].
template <class F> void runs(const char* p, const char* end, const F& word) {
    const auto part = [](char c) { return upper(c) || lower(c) || digit(c) || c == '_' || c == '-'; };
    while (p < end) {
        while (p < end && !part(*p)) ++p;
        const char* from = p;
        while (p < end && part(*p)) ++p;
        if (p > from) word(from, p);
    }
}

// What the inputs from in_word on have taken off and are divided by: mean and spread over many projects' histories.
struct Scale {
    float mean, spread;
};
constexpr Scale scale[n_inputs - in_word] = {
    {0.51f, 1.3f},   {-0.74f, 0.73f}, {0.32f, 0.68f},  {0.26f, 0.4f},   {0.9f, 1.7f},    {0.26f, 0.27f}, {-11.5f, 10.7f},
    {-5.2f, 6.5f},   {-16.5f, 10.2f}, {0.09f, 0.135f}, {-0.93f, 0.21f}, {-1.31f, 0.22f}, {-0.52f, 0.48f}, {1.05f, 1.5f},
    {0.07f, 0.22f},  {0.07f, 0.19f},  {0.08f, 0.25f},  {-0.59f, 0.27f}, {0.33f, 0.36f},  {0.5f, 0.4f},   {0.03f, 0.18f},
    {0.2f, 0.73f},   {-0.95f, 0.48f}, {0.22f, 0.41f},  {0.64f, 0.135f}, {0.64f, 0.26f},  {0.5f, 0.31f},  {-0.52f, 0.42f},
    {-0.02f, 0.44f}, {-0.07f, 0.48f}, {0.88f, 0.41f},  {0.73f, 0.085f}, {0.96f, 0.51f},  {0.51f, 0.26f}, {0.08f, 0.19f},
    {0.63f, 0.48f},  {0.15f, 0.165f}};
constexpr float most = 4; // spreads from the mean
} // namespace

const char* const input_names[n_inputs] = {
    "probe",        "rate",          "gap",        "added",         "share",           "last",        "asked",
    "word",         "word_fading",   "word_best",  "word_own",      "word_recent",     "word_known",  "likelihood",
    "likelihood_group", "posterior", "like_best",  "like_sum",      "like_close",      "like_group",  "word_group",
    "text",         "text_n",        "text_best",  "author",        "author_own",      "author_group", "author_last",
    "company",      "company_log",   "group_last", "age",           "seconds",         "touches",     "fading_10",
    "fading_100",   "group_fading",  "group_touches", "events",     "words",           "like_any",    "like_latest",
    "same_author",  "pause"};

// ---- Words and keys

void Words::add(uint16_t h) {
    if (n < max_words && std::find(hash, hash + n, h) == hash + n) hash[n++] = h;
}

Words words_of(const char* text, size_t bytes) {
    Words w;
    runs(text, text + bytes, [&](const char* p, const char* end) {
        if (!std::all_of(p, end, digit)) w.add(hash_of(p, end));
    });
    return w;
}

Words path_words(const std::string& path) {
    Words w;
    runs(path.data(), path.data() + path.size(), [&](const char* p, const char* end) {
        w.add(hash_of(p, end));
        while (p < end) {
            const char* from = p;
            if (upper(*p)) {
                while (p < end && upper(*p)) ++p;
                if (p < end && lower(*p)) { // the last capital begins a word
                    if (p - from > 1) --p;
                    else
                        while (p < end && lower(*p)) ++p;
                }
            } else if (lower(*p)) {
                while (p < end && lower(*p)) ++p;
            } else if (digit(*p)) {
                while (p < end && digit(*p)) ++p;
            } else {
                ++p;
                continue;
            }
            if (p - from >= 2) w.add(hash_of(from, p));
        }
    });
    return w;
}

uint64_t key_of(const char* id, size_t bytes) {
    uint64_t h = fnv_start;
    for (size_t i = 0; i < bytes; ++i) h = (h ^ static_cast<unsigned char>(id[i])) * fnv_prime;
    return h != 0 ? h : 1;
}

// ---- Slots

void Memory::Table::open(size_t slots) {
    size_t n = 16;
    while (n < 2 * slots) n *= 2;
    at.assign(n, 0);
}
namespace {
size_t home(uint64_t key, size_t n) { return size_t((key * 0x9e3779b97f4a7c15u) >> 20) & (n - 1); }
} // namespace
template <class Of> uint32_t Memory::Table::find(uint64_t key, const Of& of) const {
    for (size_t i = home(key, at.size()); at[i] != 0; i = (i + 1) & (at.size() - 1))
        if (of[at[i] - 1].key == key) return at[i] - 1;
    return none;
}
template <class Of> void Memory::Table::put(uint64_t key, uint32_t slot, const Of&) {
    size_t i = home(key, at.size());
    while (at[i] != 0) i = (i + 1) & (at.size() - 1);
    at[i] = slot + 1;
}
template <class Of> void Memory::Table::drop(uint64_t key, const Of& of) {
    const size_t mask = at.size() - 1;
    size_t       i = home(key, at.size());
    while (of[at[i] - 1].key != key) i = (i + 1) & mask;
    for (size_t j = (i + 1) & mask; at[j] != 0; j = (j + 1) & mask) {
        const size_t h = home(of[at[j] - 1].key, at.size());
        if (((j - h) & mask) >= ((j - i) & mask)) at[i] = at[j], i = j; // may stand at i
    }
    at[i] = 0;
}

// The slot of a key: its own, a free one, or that of the entry untouched for longest, whose place it takes.
template <class List>
uint32_t Memory::take(List* list, Table* table, size_t* n, uint64_t key, uint32_t now, bool* fresh) {
    uint32_t slot = table->find(key, *list);
    *fresh = slot == none;
    if (!*fresh) return slot;
    if (*n < list->size()) slot = uint32_t((*n)++);
    else {
        slot = 0;
        for (uint32_t i = 1; i < list->size(); ++i)
            if ((*list)[i].at < (*list)[slot].at) slot = i;
        table->drop((*list)[slot].key, *list);
    }
    (*list)[slot] = {};
    (*list)[slot].key = key, (*list)[slot].born = now, (*list)[slot].at = now;
    table->put(key, slot, *list);
    return slot;
}

void Memory::forget(Item* item) {
    for (int k = 0; k < item->n_words; ++k) --items_with_[item->words[k]];
    item->n_words = 0;
}
void Memory::set_words(Item* item, const Words& words) {
    forget(item);
    item->n_words = uint16_t(std::min(words.n, max_item_words));
    std::copy(words.hash, words.hash + item->n_words, item->words);
    for (int k = 0; k < item->n_words; ++k) ++items_with_[item->words[k]];
}
uint32_t Memory::item_slot(uint64_t key, bool* fresh) {
    if (n_items_ == item_.size() && item_table_.find(key, item_) == none) { // somebody's words will leave
        auto oldest = item_.begin();
        for (auto i = item_.begin(); i != item_.end(); ++i)
            if (i->at < oldest->at) oldest = i;
        forget(&*oldest);
    }
    const uint32_t slot = take(&item_, &item_table_, &n_items_, key, now_, fresh);
    if (*fresh) item_[slot].first = item_[slot].touched = now_, item_[slot].seconds = clock_;
    return slot;
}
uint32_t Memory::group_slot(uint64_t key) {
    bool fresh = false;
    return take(&group_, &group_table_, &n_groups_, key, now_, &fresh);
}

// ---- The ring

size_t Memory::next(size_t offset, Record* r, const uint16_t** words, const uint16_t** slots) const {
    const uint16_t* p = &ring_[offset];
    r->event = uint32_t(p[0]) | uint32_t(p[1]) << 16;
    r->author = uint32_t(p[2]) | uint32_t(p[3]) << 16;
    r->n_words = uint8_t(p[4] & 0xff), r->n_items = uint8_t(p[4] >> 8);
    *words = p + record_bytes / 2;
    *slots = *words + r->n_words;
    return offset + record_bytes / 2 + r->n_words + r->n_items;
}

void Memory::push(const Record& r, const uint16_t* words, const uint16_t* slots) {
    const size_t need = record_bytes / 2 + size_t(r.n_words) + r.n_items;
    if (used_ + need > ring_.size()) { // an eighth of the oldest goes at once, so that the rest is moved rarely
        size_t          offset = 0;
        Record          old;
        const uint16_t *w, *s;
        while (offset < used_ && offset < std::max(need, ring_.size() / 8)) {
            offset = next(offset, &old, &w, &s);
            for (int k = 0; k < old.n_words; ++k) --events_with_[w[k]];
            --n_events_;
        }
        std::copy(ring_.begin() + ptrdiff_t(offset), ring_.begin() + ptrdiff_t(used_), ring_.begin());
        used_ -= offset;
        for (uint32_t& at : latest_) at = at == none || at < offset ? none : uint32_t(at - offset);
    }
    uint16_t* p = &ring_[used_];
    p[0] = uint16_t(r.event), p[1] = uint16_t(r.event >> 16), p[2] = uint16_t(r.author), p[3] = uint16_t(r.author >> 16);
    p[4] = uint16_t(r.n_words | r.n_items << 8);
    std::copy(words, words + r.n_words, p + record_bytes / 2);
    std::copy(slots, slots + r.n_items, p + record_bytes / 2 + r.n_words);
    for (int k = 0; k < r.n_words; ++k) ++events_with_[words[k]];
    latest_[2] = latest_[1], latest_[1] = latest_[0], latest_[0] = uint32_t(used_);
    used_ += need;
    ++n_events_;
}

Words Memory::latest_words() const {
    Words w;
    if (latest_[0] == none) return w;
    Record          r;
    const uint16_t *words, *slots;
    next(latest_[0], &r, &words, &slots);
    for (int k = 0; k < r.n_words; ++k) w.add(words[k]);
    return w;
}

// ---- Events

Memory::Memory(Limits limits) : limits_(limits) {
    item_.resize(limits.items);
    group_.resize(std::max<size_t>(16, limits.items / 4));
    ring_.resize(limits.event_bytes / 2);
    events_with_.resize(n_words_hashed), items_with_.resize(n_words_hashed);
    reset();
}

void Memory::reset() {
    std::fill(item_.begin(), item_.end(), Item());
    std::fill(group_.begin(), group_.end(), Group());
    std::fill(ring_.begin(), ring_.end(), uint16_t(0));
    std::fill(events_with_.begin(), events_with_.end(), uint16_t(0));
    std::fill(items_with_.begin(), items_with_.end(), uint16_t(0));
    item_table_.open(item_.size()), group_table_.open(group_.size());
    n_items_ = n_groups_ = used_ = n_events_ = 0;
    std::fill(latest_, latest_ + 3, none);
    now_ = 0, clock_ = 0;
}

size_t Memory::state_bytes() const {
    return item_.size() * sizeof(Item) + group_.size() * sizeof(Group) + ring_.size() * 2 + 4 * n_words_hashed +
           4 * (item_table_.at.size() + group_table_.at.size()) + sizeof *this;
}

double Memory::log_of(uint32_t n) const {
    const std::vector<float>& logs = tables().logs;
    return n < logs.size() ? double(logs[n]) : double(float(log_natural(n)));
}

// What touches and candidates share.
void Memory::fill(const Item* item, float* x, float* dt) const {
    const uint32_t since = item != nullptr ? item->touched : 0;
    const double   gap = now_ > since ? now_ - since : 1;
    *dt = float(std::min(gap, 1e6));
    x[in_rate] = float(1 / gap);
    x[in_gap] = float(log_natural(gap) / ln2 / 8);
}

void Memory::apply(const Event& e, const Touched& touched) {
    const bool bulk = e.n_touches > size_t(max_items_of_event);
    uint16_t   slots[max_items_of_event];
    size_t     n = 0;
    clock_ += e.seconds > 0 ? e.seconds : 0;
    uint32_t groups[max_items_of_event];
    size_t   n_groups = 0;
    for (size_t k = 0; k < e.n_touches; ++k) {
        const Touch& t = e.touches[k];
        if (t.key == 0) continue;
        bool           fresh = false;
        const uint32_t slot = item_slot(t.key, &fresh);
        Item&          item = item_[slot];
        if (t.words != nullptr) set_words(&item, *t.words);
        if (t.grouped) item.group = t.group != 0 ? group_slot(t.group) : none;
        if (bulk || std::find(slots, slots + n, uint16_t(slot)) != slots + n) continue;
        float x[n_inputs] = {}, dt = 1;
        fill(fresh ? nullptr : &item, x, &dt);
        x[in_added] = t.added ? 1.0f : 0.0f;
        x[in_share] = float(1 / std::sqrt(double(e.n_touches)));
        const uint32_t age = now_ - item.at;
        item.fading_10 = float(double(item.fading_10) * fade(age, 10) + 1);
        item.fading_100 = float(double(item.fading_100) * fade(age, 100) + 1);
        item.at = item.touched = now_, item.seconds = clock_;
        ++item.touches;
        slots[n++] = uint16_t(slot);
        if (item.group != none && std::find(groups, groups + n_groups, item.group) == groups + n_groups) {
            groups[n_groups++] = item.group;
            Group& g = group_[item.group];
            g.fading_10 = float(double(g.fading_10) * fade(now_ - g.at, 10) + 1);
            g.at = now_;
            ++g.touches;
        }
        if (touched) touched(slot, fresh, x, dt);
    }
    if (!bulk) {
        Record r;
        r.event = now_, r.author = uint32_t(e.author ^ e.author >> 32);
        r.n_words = uint8_t(e.words.n), r.n_items = uint8_t(n);
        push(r, e.words.hash, slots);
    }
    ++now_;
}

// ---- Reading

void Memory::read(const Query& q, const Probe* probes, size_t n, float* x, float* dt, uint32_t* slot) const {
    // 1. The words to ask for: those known from events or items first, then the rarest.
    struct Asked {
        uint16_t hash;
        bool     known;
        double   events, idf; // events with it; log((events + 1) / (1 + events with it))
    };
    Asked        word[max_words];
    int          n_words = 0, n_known = 0;
    const double n_events = double(n_events_), log_events = log_of(uint32_t(n_events_) + 1);
    for (int k = 0; q.asked && k < q.words.n; ++k) {
        const uint16_t h = q.words.hash[k];
        word[n_words++] = {h, events_with_[h] > 0 || items_with_[h] > 0, double(events_with_[h]),
                           log_events - log_of(1u + events_with_[h])};
    }
    std::sort(word, word + n_words, [](const Asked& a, const Asked& b) {
        if (a.known != b.known) return a.known;
        return a.idf != b.idf ? a.idf > b.idf : a.hash < b.hash;
    });
    n_words = std::min(n_words, max_read_words);
    int8_t place[n_words_hashed];
    std::memset(place, -1, sizeof place);
    double norm = 0;
    for (int j = 0; j < n_words; ++j) {
        place[word[j].hash] = int8_t(j), norm += word[j].idf * word[j].idf;
        n_known += word[j].events > 0;
    }
    const uint32_t author = uint32_t(q.author ^ q.author >> 32);
    const bool     by_author = q.asked && q.author != 0;

    // 2. What is gathered for each candidate that is kept, and for each group of theirs.
    const size_t          width = size_t(n_words) + 1; // the last one is the author
    std::vector<uint32_t> row_of(item_.size(), none), group_row(group_.size(), none);
    std::vector<uint32_t> first(n); // the first candidate with this item
    size_t                n_rows = 0, n_group_rows = 0;
    for (size_t i = 0; i < n; ++i) {
        slot[i] = probes[i].key != 0 ? item_table_.find(probes[i].key, item_) : none;
        if (slot[i] == none) continue;
        if (row_of[slot[i]] == none) row_of[slot[i]] = uint32_t(n_rows++);
        first[i] = row_of[slot[i]];
        const uint32_t g = item_[slot[i]].group;
        if (g != none && group_row[g] == none) group_row[g] = uint32_t(n_group_rows++);
    }
    struct Row {
        float like_best, like_sum, like_close, company;
        bool  author_last, latest;
    };
    struct GroupRow {
        float    like;
        bool     latest;
        uint32_t seen; // the latest event counted
    };
    std::vector<float>    count(n_rows * width), fading(n_rows * width), group_count(n_group_rows * width);
    std::vector<Row>      row(n_rows, Row{});
    std::vector<GroupRow> group(n_group_rows, GroupRow{0, false, none});

    // 3. The items of the last three events call for company.
    std::vector<float> call(item_.size());
    Record             r;
    const uint16_t *   w, *s;
    for (int k = 0; k < 3; ++k) {
        if (latest_[k] == none) continue;
        next(latest_[k], &r, &w, &s);
        for (int i = 0; i < r.n_items; ++i)
            if (r.event >= item_[s[i]].born) call[s[i]] += float((k == 0 ? 1 : k == 1 ? 0.5 : 0.25) / (item_[s[i]].touches + 1));
    }

    // 4. All events kept, the oldest first.
    double   by_this_author = 0, like_any = 0, like_latest = 0;
    uint32_t author_event = none;
    for (size_t offset = 0; offset < used_;) {
        const uint32_t begin = uint32_t(offset);
        const bool     latest = begin == latest_[0];
        offset = next(offset, &r, &w, &s);
        int    hit[max_words], hits = 0;
        double dot = 0;
        for (int k = 0; k < r.n_words; ++k)
            if (const int j = place[w[k]]; j >= 0) hit[hits++] = j, dot += word[j].idf * word[j].idf;
        const bool same = by_author && r.author == author;
        if (same) by_this_author += 1, author_event = begin;
        float calls = 0;
        for (int i = 0; i < r.n_items; ++i) calls += call[s[i]];
        if (hits == 0 && !same && calls <= 0 && !latest) continue;
        double like = 0;
        if (hits > 0) {
            double other = 0;
            for (int k = 0; k < r.n_words; ++k) {
                const double idf = log_events - log_of(1u + events_with_[w[k]]);
                other += idf * idf;
            }
            like = std::min(1.0, dot / std::sqrt((norm + 1e-9) * (other + 1e-9)));
        }
        like_any = std::max(like_any, like);
        if (latest) like_latest = like;
        if (r.n_items == 0) continue;
        const double small = 1 / std::sqrt(double(r.n_items)), fresh = fade_of(now_ - r.event), l2 = like * like;
        const float  best = float(like * std::sqrt(small)), sum = float(l2 * small * (0.2 + fresh)),
                    close = float(l2 * l2 * small), group_like = float(l2 * small), one = float(fresh * small);
        for (int i = 0; i < r.n_items; ++i) {
            const Item& item = item_[s[i]];
            if (r.event < item.born) continue; // the slot was somebody else's then
            if (const uint32_t at = row_of[s[i]]; at != none) {
                float *c = &count[at * width], *f = &fading[at * width];
                for (int k = 0; k < hits; ++k) c[hit[k]] += 1, f[hit[k]] += one;
                if (same) c[n_words] += 1, f[n_words] += one;
                Row& to = row[at];
                to.like_best = std::max(to.like_best, best), to.like_sum += sum, to.like_close += close;
                if (calls > 0) to.company += calls - call[s[i]];
                to.latest |= latest;
            }
            if (item.group == none || group_row[item.group] == none) continue;
            GroupRow& to = group[group_row[item.group]];
            if (to.seen == r.event) continue;
            to.seen = r.event;
            float* c = &group_count[group_row[item.group] * width];
            for (int k = 0; k < hits; ++k) c[hit[k]] += 1;
            if (same) c[n_words] += 1;
            to.like += group_like, to.latest |= latest;
        }
    }
    if (author_event != none) {
        next(author_event, &r, &w, &s);
        for (int i = 0; i < r.n_items; ++i)
            if (row_of[s[i]] != none && r.event >= item_[s[i]].born) row[row_of[s[i]]].author_last = true;
    }

    // 5. The inputs.
    const double n_items = double(n_items_), now = clock_ + (q.asked && q.seconds > 0 ? q.seconds : 0);
    const auto   log = [](double v) { return log_natural(v); };
    for (size_t i = 0; i < n; ++i) {
        float* const      to = x + i * n_inputs;
        const Item* const item = slot[i] != none ? &item_[slot[i]] : nullptr;
        std::fill(to, to + n_inputs, 0.0f);
        fill(item, to, &dt[i]);
        to[in_probe] = 1, to[in_asked] = q.asked ? 1.0f : 0.0f;
        to[in_last] = item != nullptr && now_ > 0 && item->touched == now_ - 1 ? 1.0f : 0.0f;
        const Row          none_kept = {};
        const Row&         a = item != nullptr ? row[first[i]] : none_kept;
        const float*       c = item != nullptr ? &count[first[i] * width] : nullptr;
        const float*       f = item != nullptr ? &fading[first[i] * width] : nullptr;
        const uint32_t     g = item != nullptr ? item->group : none;
        const Group* const of = g != none ? &group_[g] : nullptr;
        const float* const gc = of != nullptr ? &group_count[group_row[g] * width] : nullptr;
        const double       touches = item != nullptr ? item->touches : 0, group_touches = of != nullptr ? of->touches : 0;
        double             v[n_inputs] = {}; // before scaling

        if (q.asked) {
            double fade_sum = 0, known = 0;
            for (int j = 0; j < n_words; ++j) {
                const double idf = word[j].idf, df = word[j].events, y = c != nullptr ? double(c[j]) : 0,
                             yf = f != nullptr ? double(f[j]) : 0, yg = gc != nullptr ? double(gc[j]) : 0;
                v[in_word] += idf * y / (df + 1);
                v[in_word_best] = std::max(v[in_word_best], idf * y / (df + 1));
                v[in_word_own] += idf * y / (touches + 1);
                v[in_word_recent] += 0.3 * idf * std::min(3.0, yf);
                v[in_word_group] += 0.3 * idf * yg / (df + 1);
                fade_sum += idf * yf / (df + 1);
                known += y > 0;
                const double p = (df + 0.5) / (n_events + 1), pg = (yg + 4 * p) / (group_touches + 4);
                v[in_likelihood_group] += log(pg / p);
                v[in_likelihood] += log((y + 2 * pg) / (touches + 2) / p);
                const Words*    own = probes[i].words;
                const uint16_t *from = own != nullptr ? own->hash : item != nullptr ? item->words : nullptr,
                               *end = from + (own != nullptr ? own->n : item != nullptr ? item->n_words : 0);
                if (from == end || std::find(from, end, word[j].hash) == end) continue;
                const double t = log(1 + n_items / std::max(1.0, double(items_with_[word[j].hash])));
                v[in_text] += 0.2 * t;
                v[in_text_best] = std::max(v[in_text_best], 0.25 * t);
                v[in_text_n] += 0.5;
            }
            v[in_word_fading] = 0.5 * log(0.01 + fade_sum) + 1;
            v[in_word_known] = n_words > 0 ? known / n_words : 0;
            v[in_posterior] = v[in_likelihood] + log((touches + 0.3) / (n_events + 1));
            v[in_like_best] = double(a.like_best);
            v[in_like_sum] = 0.3 * log(0.03 + double(a.like_sum));
            v[in_like_close] = 0.3 * log(0.01 + double(a.like_close));
            v[in_like_group] = gc != nullptr ? 0.3 * log(0.03 + double(group[group_row[g]].like)) : -0.52;
            const double mine = c != nullptr ? double(c[n_words]) : 0;
            v[in_author] = 0.3 * log(0.01 + mine / (by_this_author + 1)) + 0.6;
            v[in_author_own] = mine / (touches + 1);
            v[in_author_group] = gc != nullptr ? std::min(1.0, (double(gc[n_words]) + 0.5) / (group_touches + 1)) : 0.5;
            v[in_author_last] = a.author_last ? 1 : 0;
        }
        v[in_company] = double(a.company);
        v[in_company_log] = 0.3 * log(0.01 + double(a.company));
        v[in_group_last] = gc != nullptr && group[group_row[g]].latest ? 1 : 0;
        if (item != nullptr) {
            v[in_age] = 0.1 * log(1 + double(now_ - item->first));
            v[in_seconds] = 0.1 * log(1 + std::max(0.0, now - item->seconds) / 3600);
            v[in_touches] = 0.2 * log(1 + touches);
            v[in_fading_10] = 0.2 * log(0.01 + double(item->fading_10) * fade(now_ - item->at, 10));
            v[in_fading_100] = 0.2 * log(0.01 + double(item->fading_100) * fade(now_ - item->at, 100));
        } else v[in_fading_10] = v[in_fading_100] = 0.2 * log(0.01);
        if (of != nullptr) {
            v[in_group_fading] = 0.2 * log(0.01 + double(of->fading_10) * fade(now_ - of->at, 10));
            v[in_group_touches] = 0.2 * log(1 + group_touches);
        }
        v[in_events] = 0.1 * log(1 + n_events);
        v[in_words] = 0.2 * n_known;
        v[in_like_any] = like_any, v[in_like_latest] = like_latest;
        v[in_same_author] = author_event != none && author_event == latest_[0] ? 1 : 0;
        v[in_pause] = q.asked ? 0.1 * log(1 + std::max(0.0, q.seconds) / 3600) : 0;

        const auto scaled = [&](int k) {
            const Scale& to_unit = scale[k - in_word];
            const double z = (v[k] - double(to_unit.mean)) / double(to_unit.spread);
            return float(std::max(-double(most), std::min(double(most), z)));
        };
        for (int k = in_word; k < n_inputs; ++k) {
            const bool of_query = k <= in_author_last || k == in_words || k == in_like_any || k == in_like_latest ||
                                  k == in_same_author || k == in_pause;
            to[k] = of_query && !q.asked ? 0.0f : scaled(k);
        }
    }
}

// ---- Saving
//
// Little-endian: limits, now, clock, counts, then items, groups, ring as far as they are used. What follows from these
// (tables, counts by word, where the latest events begin) is made again.
namespace {
template <class T> void put(std::string* out, T v) {
    static_assert(sizeof(T) <= 8, "numbers");
    uint64_t bits = 0;
    if constexpr (std::is_same_v<T, float>) {
        uint32_t b = 0;
        std::memcpy(&b, &v, sizeof b);
        bits = b;
    } else if constexpr (std::is_same_v<T, double>) std::memcpy(&bits, &v, sizeof bits);
    else bits = uint64_t(v);
    for (size_t i = 0; i < sizeof v; ++i) out->push_back(static_cast<char>(bits >> 8 * i & 0xff));
}
struct Source {
    const unsigned char *p, *end;
    bool                 good = true;
    template <class T> void get(T* v) {
        if (size_t(end - p) < sizeof(T)) good = false;
        uint64_t bits = 0;
        if (good)
            for (size_t i = 0; i < sizeof(T); ++i) bits |= uint64_t(*p++) << 8 * i;
        if constexpr (std::is_same_v<T, float>) {
            const uint32_t b = uint32_t(bits);
            std::memcpy(v, &b, sizeof b);
            good = good && std::isfinite(*v) && *v >= 0;
        } else if constexpr (std::is_same_v<T, double>) {
            std::memcpy(v, &bits, sizeof bits);
            good = good && std::isfinite(*v) && *v >= 0;
        } else *v = T(bits);
    }
};
template <class Do, class I> void each_of_item(Do&& field, I& i) { // the fields of an item, in the order of the file
    field(i.key), field(i.group), field(i.born), field(i.first), field(i.touched), field(i.at), field(i.touches);
    field(i.fading_10), field(i.fading_100), field(i.seconds), field(i.n_words);
}
template <class Do, class G> void each_of_group(Do&& field, G& g) {
    field(g.key), field(g.born), field(g.at), field(g.touches), field(g.fading_10);
}
} // namespace

void Memory::save(std::string* out) const {
    const auto field = [&](const auto& v) { put(out, v); };
    field(limits_.items), field(limits_.event_bytes), field(now_), field(clock_);
    field(uint32_t(n_items_)), field(uint32_t(n_groups_)), field(uint32_t(used_));
    for (size_t k = 0; k < n_items_; ++k) {
        each_of_item(field, item_[k]);
        for (int j = 0; j < item_[k].n_words; ++j) field(item_[k].words[j]);
    }
    for (size_t k = 0; k < n_groups_; ++k) each_of_group(field, group_[k]);
    for (size_t k = 0; k < used_; ++k) field(ring_[k]);
}

size_t Memory::load(const unsigned char* p, size_t bytes) {
    Memory     m(limits_);
    Source     in{p, p + bytes};
    const auto field = [&](auto& v) { in.get(&v); };
    Limits     limits;
    uint32_t   n_items = 0, n_groups = 0, used = 0;
    field(limits.items), field(limits.event_bytes), field(m.now_), field(m.clock_);
    field(n_items), field(n_groups), field(used);
    if (!in.good || limits.items != limits_.items || limits.event_bytes != limits_.event_bytes ||
        n_items > item_.size() || n_groups > group_.size() || used > ring_.size())
        return 0;
    for (m.n_items_ = 0; m.n_items_ < n_items; ++m.n_items_) {
        Item& i = m.item_[m.n_items_];
        each_of_item(field, i);
        if (!in.good || i.key == 0 || (i.group != none && i.group >= n_groups) || i.n_words > max_item_words ||
            std::max({i.born, i.first, i.touched, i.at}) > m.now_ || m.item_table_.find(i.key, m.item_) != none)
            return 0;
        for (int j = 0; j < i.n_words; ++j) {
            field(i.words[j]);
            if (!in.good || i.words[j] >= n_words_hashed) return 0;
            ++m.items_with_[i.words[j]];
        }
        m.item_table_.put(i.key, uint32_t(m.n_items_), m.item_);
    }
    for (m.n_groups_ = 0; m.n_groups_ < n_groups; ++m.n_groups_) {
        Group& g = m.group_[m.n_groups_];
        each_of_group(field, g);
        if (!in.good || g.key == 0 || std::max(g.born, g.at) > m.now_ || m.group_table_.find(g.key, m.group_) != none)
            return 0;
        m.group_table_.put(g.key, uint32_t(m.n_groups_), m.group_);
    }
    for (m.used_ = 0; m.used_ < used; ++m.used_) field(m.ring_[m.used_]);
    if (!in.good) return 0;
    uint32_t latest = 0;
    for (size_t at = 0; at < used; ++m.n_events_) { // whole records, in the order of time
        if (used - at < record_bytes / 2) return 0;
        Record          r;
        const uint16_t *w = nullptr, *s = nullptr;
        const size_t    end = m.next(at, &r, &w, &s);
        if (end > used || r.n_words > max_words || r.n_items > max_items_of_event || r.event >= m.now_ ||
            (m.n_events_ > 0 && r.event <= latest))
            return 0;
        for (int k = 0; k < r.n_words; ++k) {
            if (w[k] >= n_words_hashed) return 0;
            ++m.events_with_[w[k]];
        }
        for (int k = 0; k < r.n_items; ++k)
            if (s[k] >= n_items) return 0;
        latest = r.event;
        m.latest_[2] = m.latest_[1], m.latest_[1] = m.latest_[0], m.latest_[0] = uint32_t(at);
        at = end;
    }
    *this = std::move(m);
    return size_t(in.p - p);
}

} // namespace memory
