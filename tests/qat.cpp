// qat.cpp - training that sees rounded weights and activations: it computes what the integer engine does, its gradients
// pass straight through the rounding, and a short run wins back what int4 lost. SPDX-License-Identifier: MIT
#include "../tools/tensor_read.hpp"
#include "../tools/train_tracking.hpp"
#include "int_models.hpp"
#include "int_reference.hpp"

using namespace test;

namespace {

// The numbers of a model's file, under their names.
template <class Net> void fill(Net& net, const Bytes& file) {
    Bytes      memory(ssm::index_bytes({file.data(), file.size()}));
    ssm::Index index;
    REQUIRE(ssm::read_index(&index, {file.data(), file.size()}, memory.data(), memory.size()) == ssm::Status::ok);
    for (const s4d::Tensor& t : net.tensors) {
        const ssm::Entry* e = ssm::find_tensor(index, t.name.c_str());
        if (e == nullptr) e = ssm::find_tensor(index, ("backbone." + t.name).c_str());
        REQUIRE_MESSAGE(e != nullptr, t.name);
        std::vector<double> values;
        REQUIRE(tool::read_numbers(index, *e, &values));
        REQUIRE(values.size() == size_t(t.count));
        std::copy(values.begin(), values.end(), net.params.begin() + t.offset);
    }
}

double sqnr(const std::vector<double>& want, const std::vector<double>& got) {
    double signal = 0, noise = 0;
    for (size_t i = 0; i < want.size(); ++i)
        signal += want[i] * want[i], noise += (want[i] - got[i]) * (want[i] - got[i]);
    return 10 * std::log10(signal / noise);
}

// A network of either kind with its inputs; weights rounded to `bits`, activations to `act_bits`, 0: not.
struct Subject {
    bool                 is_s4d;
    Bytes                file;
    ssm::Config          shape;
    s4d::Config          s4d_config;
    mamba3::Config       mamba_config;
    std::vector<double>  x, params;
    std::vector<int64_t> start;
    int                  T = 40;

    explicit Subject(const char* text) : file(random_file(spec(text))) {
        const Loaded loaded(file);
        shape = loaded.config, is_s4d = shape.arch == ssm::Arch::s4d;
        s4d_config.d_model = mamba_config.d_model = shape.d_model;
        s4d_config.d_state = mamba_config.d_state = shape.d_state;
        s4d_config.n_layers = mamba_config.n_layers = shape.n_layers;
        s4d_config.d_input = mamba_config.d_input = shape.d_input;
        s4d_config.d_output = mamba_config.d_output = shape.d_output;
        s4d_config.prenorm = shape.prenorm, s4d_config.pool = s4d::Pool::none;
        mamba_config.d_inner = shape.d_inner, mamba_config.headdim = shape.headdim;
        mamba_config.ngroups = shape.ngroups, mamba_config.rope_angles = shape.rope_angles;
        mamba_config.is_mimo = shape.is_mimo, mamba_config.mimo_rank = std::max(1, int(shape.mimo_rank));
        mamba_config.is_outproj_norm = shape.is_outproj_norm, mamba_config.mlp_hidden = shape.mlp_hidden;
        mamba_config.softplus_A = shape.softplus_A, mamba_config.A_floor = double(shape.A_floor);
        s4d::Random random(17);
        for (int i = 0; i < T * shape.d_input; ++i) x.push_back(double(float(random.normal())));
        start = {0, T};
        if (is_s4d) params = s4d_net(0, 0).params;
        else params = mamba_net(0, 0).params;
    }
    s4d::Net<double> s4d_net(int bits, int act_bits) const {
        s4d::Config c = s4d_config;
        c.act_bits = act_bits;
        s4d::Net<double> net(c);
        if (params.empty()) fill(net, file);
        else net.params = params;
        train::round_weights(net.tensors, bits, 0, net.params);
        return net;
    }
    mamba3::Net<double> mamba_net(int bits, int act_bits) const {
        mamba3::Config c = mamba_config;
        c.act_bits = act_bits;
        mamba3::Net<double> net(c);
        if (params.empty()) fill(net, file);
        else net.params = params;
        train::round_weights(net.tensors, bits, 3 * c.heads() + c.rope_angles, net.params);
        return net;
    }
    // Outputs of every step; the gradient of their sum times fixed weights, where wanted.
    std::vector<double> run(int bits, int act_bits, std::vector<double>* gradient = nullptr) const {
        std::vector<double> out(size_t(T * shape.d_output)), d_out = weights();
        if (is_s4d) {
            const auto               net = s4d_net(bits, act_bits);
            const s4d::Ready<double> ready(net);
            s4d::Workspace<double>   ws;
            s4d::Gradient<double>    grad(ready);
            s4d::Batch<double>       batch;
            batch.x = x.data(), batch.start = start.data(), batch.n_streams = 1;
            s4d::forward(ready, batch, ws, out.data(), true);
            if (gradient == nullptr) return out;
            s4d::backward(ready, batch, ws, d_out.data(), grad);
            grad.to_params(net, ready.kernels.width, *gradient);
        } else {
            const auto                net = mamba_net(bits, act_bits);
            mamba3::Workspace<double> ws;
            mamba3::Batch<double>     batch;
            batch.x = x.data(), batch.n_streams = 1, batch.T = T;
            mamba3::forward(net, batch, ws, out.data());
            if (gradient == nullptr) return out;
            gradient->assign(net.params.size(), 0.0);
            mamba3::backward(net, batch, ws, d_out.data(), gradient->data());
        }
        return out;
    }
    std::vector<double> weights() const {
        s4d::Random         random(3);
        std::vector<double> w(size_t(T * shape.d_output));
        for (double& v : w) v = random.normal();
        return w;
    }
    double loss(int bits, int act_bits) const {
        const auto out = run(bits, act_bits), w = weights();
        double     sum = 0;
        for (size_t i = 0; i < out.size(); ++i) sum += out[i] * w[i];
        return sum;
    }
    std::vector<double> integers(int bits, int act_bits) const {
        quantize::Settings settings;
        settings.int4 = bits == 4, settings.act16 = act_bits == 16;
        Loaded              q(quantized(file, settings));
        std::vector<double> out;
        std::vector<float>  y(size_t(shape.d_output));
        for (int t = 0; t < T; ++t) {
            std::vector<float> row(x.begin() + t * shape.d_input, x.begin() + (t + 1) * shape.d_input);
            REQUIRE(ssm::step(q.model, &q.state, &q.scratch, row.data(), y.data()) == ssm::Status::ok);
            out.insert(out.end(), y.begin(), y.end());
        }
        return out;
    }
    const std::vector<s4d::Tensor> tensors() const { return is_s4d ? s4d_net(0, 0).tensors : mamba_net(0, 0).tensors; }
};
const char* const subjects[] = {
    "s4d,d_model=20,n_layer=1,d_state=6,d_input=3,d_output=4",
    "s4d,d_model=40,n_layer=2,d_state=8,d_input=5,d_output=2",
    "mamba3,d_model=16,n_layer=1,d_state=8,headdim=8,d_input=3,d_output=4",
    "mamba3,d_model=40,n_layer=2,d_state=8,headdim=16,mimo_rank=2,mlp_hidden=24,d_input=3,d_output=4"};

train::Result run_delay(const std::vector<std::string>& lines) {
    train::Settings          s;
    std::string              error;
    std::vector<std::string> all = {"task=regress", "data=synthetic:delay,200",
                                    "pool=none",    "d_model=12",
                                    "d_state=16",   "n_layers=1",
                                    "dt_min=0.02",  "dt_max=0.5",
                                    "lr=0.02",      "lr_ssm=0.005",
                                    "batch=16",     "warmup=3",
                                    "grad_clip=1",  "validate=0.2",
                                    "threads=1",    "steps=400"};
    all.insert(all.end(), lines.begin(), lines.end());
    for (const std::string& line : all) REQUIRE_MESSAGE(train::take_setting(s, line, &error), error);
    train::SequenceTask task;
    train::Options      quiet;
    quiet.quiet = true;
    train::Result r = train::run(s, task, quiet);
    CAPTURE(r.message);
    return r;
}
} // namespace

TEST_CASE("qat: the rounded network computes what the integer engine does, but for its Q16") {
    for (const char* text : subjects) {
        const Subject subject(text);
        for (int bits : {8, 4})
            for (int act_bits : {8, 16}) {
                CAPTURE(text);
                CAPTURE(bits);
                CAPTURE(act_bits);
                const auto   integers = subject.integers(bits, act_bits);
                const double with = sqnr(integers, subject.run(bits, act_bits)),
                             without = sqnr(integers, subject.run(0, 0));
                CHECK(with > without + 5); // a code beside a half may fall the other way
                CHECK(with > (act_bits == 16 ? 80 : 40));
            }
    }
}

TEST_CASE("qat: rows are rounded to the codes of the engine's quantiser; what is not finite stays") {
    s4d::Random random(23);
    for (int bits : {8, 16}) {
        int differ = 0;
        for (int64_t i = 0; i < 500; ++i) {
            std::vector<double> row(1 + random.below(60));
            int_reference::Vec  q16;
            const double        scale = std::exp(random.uniform(-6, 8));
            for (double& v : row) {
                q16.push_back(int64_t(std::nearbyint(scale * random.normal() * 65536)));
                v = double(q16.back()) / 65536;
            }
            const auto n = int64_t(row.size());
            const auto codes = int_reference::quantize(q16, bits);
            s4d::round_rows(row.data(), 1, n, n, bits);
            for (size_t k = 0; k < row.size(); ++k) {
                const double want = std::ldexp(double(codes.q[k] * codes.num), -int(codes.den) - 16);
                const double step = std::ldexp(double(codes.num), -int(codes.den) - 16);
                if (std::fabs(row[k] - want) > 0.01 * step) ++differ; // a tie, after R was rounded down
            }
        }
        CHECK(differ <= 3);
    }
    std::vector<float> row = {1, NAN, 0.3f, INFINITY, 0, 0};
    s4d::round_rows(row.data(), 3, 2, 2, 8);
    CHECK((row[0] == 1 && std::isnan(row[1]) && row[2] == 0.3f && std::isinf(row[3]) && row[4] == 0));
    std::vector<s4d::Tensor> tensors(1);
    tensors[0].name = "encoder.weight", tensors[0].shape = {2, 3}, tensors[0].count = 6;
    std::vector<float> weights = {1, NAN, 0.3f, 127, 3.4f, -3.6f};
    train::round_weights(tensors, 8, 0, weights);
    CHECK((std::isnan(weights[1]) && weights[2] == 0.3f && weights[4] == 3 && weights[5] == -4));
}

TEST_CASE("qat: gradients pass straight through the rounding (slow)") {
    // Along one direction a tensor, with steps far above the 16-bit quantiser's; the weights are rounded once, before.
    for (const char* text : subjects) {
        for (int bits : {8, 4}) {
            Subject             subject(text);
            std::vector<double> gradient;
            subject.run(bits, 16, &gradient);
            subject.params = subject.is_s4d ? subject.s4d_net(bits, 0).params : subject.mamba_net(bits, 0).params;
            for (const s4d::Tensor& t : subject.tensors()) {
                CAPTURE(text);
                CAPTURE(t.name);
                CAPTURE(bits);
                double     along = 0, size = 0;
                const auto params = subject.params;
                const auto move = [&](double by) {
                    s4d::Random again(uint64_t(t.offset) + 11);
                    subject.params = params;
                    for (int64_t k = 0; k < t.count; ++k) subject.params[size_t(t.offset + k)] += by * again.normal();
                    return subject.loss(0, 16);
                };
                s4d::Random again(uint64_t(t.offset) + 11);
                for (int64_t k = 0; k < t.count; ++k) {
                    const double g = gradient[size_t(t.offset + k)];
                    along += g * again.normal(), size += g * g;
                }
                const double h = 1e-2, near = move(h) - move(-h), far = move(2 * h) - move(-2 * h);
                const double slope = (8 * near - far) / (12 * h); // the error is of the order of h^4
                subject.params = params;
                CHECK(std::fabs(slope - along) <= 0.05 * std::sqrt(size) + 0.02);
            }
        }
    }
}

TEST_CASE("qat: a short run from a float model wins back what int4 lost (slow)") {
    const std::string at = "/tmp/ssm_test_" + std::to_string(long(::getpid())) + "_qat", file = at + "-float",
                      last = at + "-int4";
    const auto rmse = [](const train::Result& r) {
        REQUIRE_MESSAGE(r.status == train::done, r.message);
        return r.metrics[0].value;
    };
    const double real = rmse(run_delay({"out=" + file}));
    const double rounded = rmse(run_delay({"from=" + file, "qat=i4", "steps=0", "epochs=0"}));
    const double tuned = rmse(run_delay({"from=" + file, "qat=i4", "steps=150", "lr=0.005", "out=" + last}));
    const double same = rmse(run_delay({"from=" + file, "steps=0", "epochs=0"}));
    CHECK(same == real);
    CHECK(rounded > real);
    CHECK(tuned < rounded);
    CHECK(tuned - real < 0.5 * (rounded - real));
    CHECK(rmse(run_delay({"from=" + last, "qat=i4", "steps=0", "epochs=0"})) == tuned);
    CHECK(run_delay({"from=" + file, "d_model=16"}).status == train::bad_file);
    CHECK(run_delay({"from=" + at}).status == train::io_error);
    std::remove(file.c_str()), std::remove(last.c_str());
}

TEST_CASE("qat: Mamba-3 learns with int4 weights and 8-bit activations, the same bits on two threads (slow)") {
    const auto settings = [](const std::vector<std::string>& more) {
        tracking::Settings       s;
        std::string              error;
        std::vector<std::string> lines = {
            "task = parity",     "d_model = 8",         "d_inner = 16",     "headdim = 8",
            "d_state = 4",       "rope_fraction = 1.0", "lr = 0.003",       "a_activation = softplus",
            "batch = 16",        "smoothing = 0.1",     "start_length = 6", "max_length = 12",
            "final_steps = 100", "warmup = 20"};
        lines.insert(lines.end(), more.begin(), more.end());
        for (const std::string& line : lines) REQUIRE_MESSAGE(tracking::take_setting(s, line, &error), error);
        const bool complete = tracking::complete(s, &error);
        if (!complete) MESSAGE(error);
        return s;
    };
    const auto        s = settings({"qat = i4", "threads = 1"});
    tracking::Trainer one(s), two(settings({"qat = i4", "threads = 2"}));
    for (int i = 0; i < 20; ++i) one.train(), two.train();
    CHECK(std::memcmp(one.net.params.data(), two.net.params.data(), one.net.params.size() * 4) == 0);
    for (int i = 0; i < 1500; ++i)
        if (one.train() == tracking::Event::finished) break;
    CHECK(one.measure(12, 256, 1).end > 0.95);
    auto        both = s;
    std::string error;
    both.snap = true;
    CHECK(!tracking::complete(both, &error));
    CHECK(error.find("snap goes without qat") == 0);
}
