// serve_rpc.hpp - the protocol of `ssm serve`: one JSON-RPC 2.0 request a line in, one answer out.
//
// No descriptor in here, so that a test or a fuzzer can feed it lines; files are touched by save_checkpoint, state_save
// and state_load alone. SPDX-License-Identifier: MIT
#ifndef SSM_TOOLS_SERVE_RPC_HPP
#define SSM_TOOLS_SERVE_RPC_HPP

#include "relevance.hpp"
#include "serve_request.hpp"

#include <ctime>

namespace serve {

constexpr size_t max_line_bytes = size_t(64) << 20; // of a request, without its newline
constexpr size_t kept_bytes = size_t(4) << 20;      // of buffers from one request to the next

// A request is read to its end before anything is done: a bad one changes nothing.
class Rpc {
  public:
    // The sidecar must outlive this. Without `files`, what touches files is refused (tests).
    Rpc(relevance::Sidecar* sidecar, int32_t native_dim, bool files = true);

    // Appends the answer to a line with its newline; nothing to a blank line.
    void line(std::string_view text, std::string* out);
    void too_long(std::string* out);                            // to a line beyond max_line_bytes
    void cannot_read(const std::string& why, std::string* out); // the input

  private:
    struct Named {
        const char*   name;
        const Member* member;
    };
    bool               fail(int code, const std::string& what);
    bool               answer(std::string* out);
    bool               run(std::string* out);
    bool               check(std::initializer_list<Named> required, std::initializer_list<Named> optional);
    bool               check_context();
    bool               pool(size_t n, const char* what);
    relevance::Context context();
    bool               status(std::string* out);
    bool               score(std::string* out);
    bool               train(std::string* out);
    bool               observe(std::string* out);
    bool               file(bool (Rpc::*act)(const char* path, std::string* why), const char* result, std::string* out);
    bool               save_checkpoint(const char* path, std::string* why) { return sidecar_->checkpoint(path, why); }
    bool               state_save(const char* path, std::string* why) { return sidecar_->save_state(path, why); }
    bool               state_load(const char* path, std::string* why) { return sidecar_->load_state(path, why); }
    void               steps(std::string* out);
    void               append_id(std::string* out) const;
    void               append_error(std::string* out) const;
    memory::Words      words(const Text& t);
    void               give_back();

    relevance::Sidecar* sidecar_;
    size_t              dim_;
    bool                files_;

    Request                           q_;
    std::vector<relevance::Candidate> candidates_;
    std::vector<float>                logits_;
    std::vector<uint32_t>             order_;
    std::string                       text_;
    int                               code_ = 0; // of an error, and its message
    std::string                       what_;
};

// The share of each of a pool: the softmax of logits clipped to [-50, 50]; no NaN passes. Replaces the logits. order:
// best first, those with equal shares as they came.
void shares(float* logits, size_t n, std::vector<uint32_t>* order);

} // namespace serve
#endif
