// relevance_history.cpp - change histories as streams of events with items.
// SPDX-License-Identifier: MIT
#include "relevance_history.hpp"

namespace relevance {

memory::Words Commits::words(const history::Event& e) {
    memory::Words w;
    for (uint16_t h : e.words) w.add(h);
    return w;
}
double Commits::pause(const history::Event& e) const { return time_ < 0 ? 0 : double(e.time - time_); }

memory::Query Commits::query(const history::Event& e) const {
    memory::Query q;
    q.words = words(e), q.author = author(e.author), q.seconds = pause(e);
    return q;
}

const memory::Event& Commits::event(const history::Event& e) {
    touches_.clear();
    paths_.clear();
    paths_.reserve(e.ops.size()); // touches point into it
    for (const history::Op& op : e.ops) {
        memory::Touch t;
        t.key = key(op.id), t.added = op.kind == 'a';
        if (!op.path.empty()) {
            paths_.push_back(memory::path_words(op.path));
            const size_t slash = op.path.rfind('/');
            t.words = &paths_.back(), t.grouped = true;
            t.group = memory::key_of(op.path.data(), slash == std::string::npos ? 0 : slash);
        }
        touches_.push_back(t);
    }
    event_.words = words(e), event_.author = author(e.author), event_.seconds = pause(e);
    event_.touches = touches_.data(), event_.n_touches = touches_.size();
    time_ = e.time;
    return event_;
}

} // namespace relevance
