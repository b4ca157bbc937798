// relevance.hpp - which items matter now? A stream of events, and a score for each candidate from what the stream left.
//
// Two levels of state. Each item that was touched keeps a small recurrent state, stepped by its touches (an S4D model,
// run by ssm.hpp). The stream keeps an associative memory of its last events (memory.hpp), read by content: which items
// came with these words, how often, how lately, in whose company. A candidate's inputs are its read-outs of both; the
// model makes one number of them, a linear head adds what the caller knows of the item (importance, age, ...).
// A score depends on the state, the context and the candidate alone: never on the other candidates or their order.
// All memory is bounded and known when the model is opened. SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_RELEVANCE_HPP
#define SSM_TOOLS_RELEVANCE_HPP

#include "memory.hpp"
#include "next.hpp"
#include "relevance_history.hpp"

#include <memory>
#include <string>
#include <vector>

namespace relevance {

// A model with the memory and the states of items it runs on.
class Engine {
  public:
    // `model` and `scratch` outlive the engine. `input`: the metadata, names of the model's inputs. False with a reason.
    bool open(const ssm::Model& model, const ssm::Scratch& scratch, const std::string& input, memory::Limits limits,
              std::string* why);
    bool apply(const memory::Event& e); // false: refused by the model, which cannot be
    // y[n], and if not null x[n][memory::n_inputs]. The state does not move.
    bool                  score(const memory::Query& q, const memory::Probe* probes, size_t n, float* y, float* x);
    void                  reset();
    size_t                state_bytes() const;
    const memory::Memory& memory() const { return *memory_; }
    // As Memory's; load() takes all of the bytes or none.
    void save(std::string* out) const;
    bool load(const unsigned char* p, size_t bytes);

  private:
    ssm::State                      state(uint32_t slot);
    const ssm::Model*               model_ = nullptr;
    ssm::Scratch                    scratch_;
    std::unique_ptr<memory::Memory> memory_;
    size_t                          stride_ = 0; // bytes of one state
    std::vector<uint32_t>           states_;     // one a slot, and one more that stays zero
    std::vector<float>              x_, dt_;
    std::vector<uint32_t>           slots_;
    std::vector<ssm::State>         rows_;
};

// The ranking of a history's files by such a model.
std::unique_ptr<next::HistoryRanker> open_ranker(const ssm::Model& model, const ssm::Scratch& scratch,
                                                 const std::string& input, memory::Limits limits, std::string* why);

constexpr int n_given = 17; // numbers a caller may give with a candidate: age, importance, use count, ...

// What happened. Pointers are read during the call only.
struct Event {
    memory::Words   words;               // of its text
    const uint64_t* items = nullptr;     // keys of the items it touched; one that stands twice counts once
    size_t          n_items = 0;
    double          seconds = 0;         // since the event before, 0 or more
    const float*    embedding = nullptr; // [native_dim] or null
};

// What is asked about.
struct Context {
    const float*  embedding = nullptr; // [native_dim] or null
    memory::Words words;               // of a text that says what is going on; none: the words of the latest event
    uint64_t      author = 0;          // who asks; 0: unknown
    double        seconds = 0;         // since the latest event
};
struct Candidate {
    uint64_t      key = 0;             // 0: an item without a name
    memory::Words words;               // of its text
    const float*  embedding = nullptr; // [native_dim] or null
    const float*  given = nullptr;     // [n_given]; null: zeros
};

// The head: a sum over the model's score, the read-outs of the memory, and what the caller gives; the weights of all
// but the first begin at 0 or at the values of first_weight(), and learn().
constexpr int n_read = memory::n_inputs - memory::n_touch_inputs;
enum Term : int {
    t_model,                            // the model's score
    t_read,                             // the memory's read-outs
    t_near = t_read + n_read,           // cosine of the candidate's embedding and the context's
    t_near_lately,                      // ... and the mean of the latest events', half-life 8 events
    t_embedded,                         // there is an embedding
    t_usual,                            // log of importance * 0.95^days
    t_given,                            // the caller's numbers
    n_terms = t_given + n_given
};
constexpr int   n_slots = 256; // of numbers 12 and 13, which are names hashed to 0..255 and divided by 255
constexpr int   max_canary = 128;
constexpr float max_logit = 50;

// The scorer of a sidecar: a model, the states of its items and stream, and a head that can learn.
class Sidecar {
  public:
    explicit Sidecar(int32_t native_dim = 768, memory::Limits limits = memory::Limits());
    ~Sidecar();
    Sidecar(const Sidecar&) = delete;
    Sidecar& operator=(const Sidecar&) = delete;

    // Takes a model or a checkpoint written by checkpoint(). False with a reason (empty: it has been printed, as
    // `ssm VERB: ...`): the sidecar is then as it was; without a model it scores by what the caller gives (nearness,
    // importance, age) and its memory of words alone; everything else works.
    bool    open(const char* verb, const char* path, ssm::Isa isa, std::string* why);
    bool    has_model() const;
    int32_t native_dim() const;

    // observe() after expect(items) of an event of at most so many needs no memory, so that it is whole or not at all.
    void expect(size_t items);
    void observe(const Event& e);
    void observe(const memory::Event& e); // for callers that know the items' texts and groups
    // logits[n], each finite and in [-50, 50]. The state does not move.
    void score(const Context& c, const Candidate* candidates, size_t n, float* logits);
    // One step of the head towards softmax(labels / temperature): the KL divergence before the step goes to `loss`.
    // False with a reason if it was taken back: the loss is not finite, or of the best five of the pool scored last
    // fewer than three are left, or its scores no longer differ.
    bool learn(const Context& c, const Candidate* candidates, size_t n, const float* labels, float temperature,
               double* loss, std::string* why);
    void reset(); // the state of items and stream; not the head

    uint64_t steps() const;       // events observed since the state was new
    uint64_t pairs() const;       // candidates learned from
    uint64_t lessons() const;     // steps of learn() that were kept
    int64_t  learned_at() const;  // unix seconds as the caller set them after learn(), -1: never; kept in checkpoints
    void     learned_at(int64_t seconds);
    size_t   state_bytes() const; // of everything that observe() writes to

    // The state alone; the model, the head and the state. Both are little-endian, the same on every machine.
    bool save_state(const char* path, std::string* why) const;
    bool load_state(const char* path, std::string* why); // false: the state is as it was
    bool checkpoint(const char* path, std::string* why) const;

    // The same on bytes.
    void state(std::string* out) const;
    bool take_state(const unsigned char* p, size_t bytes, std::string* why);

  private:
    struct Body;
    std::unique_ptr<Body> body_;
};

// The ranking of a history's files by a sidecar whose head learns from each commit it was asked about, once that is
// known. Null with a reason, as Sidecar::open().
std::unique_ptr<next::HistoryRanker> open_learner(const char* verb, const char* path, ssm::Isa isa,
                                                  memory::Limits limits, std::string* why);

} // namespace relevance
#endif
