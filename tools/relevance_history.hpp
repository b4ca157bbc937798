// relevance_history.hpp - change histories as streams of events with items: files are items, folders their groups.
// SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_RELEVANCE_HISTORY_HPP
#define SSM_TOOLS_RELEVANCE_HISTORY_HPP

#include "history.hpp"
#include "memory.hpp"

namespace relevance {

// Turns commits into events, one after the other, and the question before a commit into a query.
class Commits {
  public:
    // Valid until the next call; the next commit, of which nothing has been taken yet.
    const memory::Event& event(const history::Event& e);
    // Before event(e): what track "query" knows of it. For track "next" use Query{false}.
    memory::Query query(const history::Event& e) const;

    static uint64_t key(int32_t id) { return uint64_t(id) + 1; }
    static uint64_t author(int32_t number) { return uint64_t(number) + 1; }

  private:
    static memory::Words       words(const history::Event& e);
    double                     pause(const history::Event& e) const;
    memory::Event              event_;
    std::vector<memory::Touch> touches_;
    std::vector<memory::Words> paths_;
    int64_t                    time_ = -1; // of the last commit
};

} // namespace relevance
#endif
