// Two requests in flight from C++: handles that release themselves, a worker thread, a deadline.
//
//     firmware_cpp MODEL.plan

#include <pilotlight.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

namespace {

void check(pl_status status) {
    if (status == PL_OK) return;
    std::string why(pl_last_error(nullptr, 0) + 1, '\0');
    pl_last_error(why.data(), why.size());
    throw std::runtime_error(std::string(pl_status_text(status)) + ": " + why);
}

class Slot {
public:
    explicit Slot(pl_session session) { check(pl_lend(session, &slot_)); }
    // Whatever state it is in: what is in flight is cancelled, what is not is released.
    ~Slot() {
        if (pl_cancel(slot_, nullptr) != PL_OK) pl_release(slot_);
    }
    Slot(const Slot &) = delete;
    Slot &operator=(const Slot &) = delete;

    void fill(unsigned char value) {
        void *data;
        std::size_t size;
        check(pl_slot_input(slot_, 0, &data, &size));
        std::memset(data, value, size);
    }
    void submit(std::uint64_t deadline_ns) { check(pl_submit_within(slot_, deadline_ns)); }
    pl_report wait() {
        check(pl_wait(slot_));
        pl_report report{};
        report.size = sizeof report;
        check(pl_slot_report(slot_, &report));
        return report;
    }

private:
    pl_slot slot_{};
};

class Session {
public:
    explicit Session(const char *path) {
        pl_plan plan;
        check(pl_plan_open(path, &plan));
        pl_options options;
        check(pl_options_init(&options, sizeof options));
        options.runner = PL_RUN_WORKER;
        options.wait = PL_WAIT_PREDICTIVE;
        std::snprintf(options.thread_name, sizeof options.thread_name, "infer");
        pl_status status = pl_session_open(plan, &options, &session_);
        pl_plan_close(plan);
        check(status);
    }
    ~Session() { pl_session_close(session_); }
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;
    pl_session get() const { return session_; }

private:
    pl_session session_{};
};

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: firmware_cpp MODEL.plan\n");
        return 1;
    }
    try {
        Session session(argv[1]);
        Slot first(session.get()), second(session.get());
        constexpr std::uint64_t minute = 60'000'000'000;
        first.fill(0);
        first.submit(minute);
        second.fill(1);
        second.submit(minute);
        for (Slot *slot : std::array{&second, &first}) {
            pl_report report = slot->wait();
            std::printf("inference %llu in time: %s\n", static_cast<unsigned long long>(report.sequence),
                        report.late_ns == 0 ? "yes" : "no");
        }
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
