// Sets of tiles: those of a state, and those that it is to hold next.

namespace attnspec {

struct Team { int64_t first, count; };  // of heads

// Sums over runs of `size` tiles of the inner side, the first of which begins with tile `first`: what a state that starts in
// the middle of a sequence is put together from. frames: what each counts from (see Sweep::frame).
struct Parts {
    double *sums, *frames;
    int64_t first, size, count;
};

struct Run { int64_t lo, hi; };  // first and last tile

// Runs of tiles that neither meet nor touch, ascending.
struct Runs {
    Run* at = nullptr;
    int64_t count = 0, room = 0;
    bool complete = true;  // false: there was no memory for one
    Runs() = default;
    ~Runs() { free(at); }
    Runs(const Runs&) = delete;
    Runs& operator=(const Runs&) = delete;

    void add(int64_t lo, int64_t hi) {
        if (hi < lo) return;
        if (count && at[count - 1].hi + 1 == lo) {
            at[count - 1].hi = hi;
            return;
        }
        if (count == room) {
            const int64_t more = room ? 2 * room : 8;
            Run* grown = (Run*)realloc(at, sizeof(Run) * more);
            if (!grown) {
                complete = false;
                return;
            }
            at = grown, room = more;
        }
        at[count++] = {lo, hi};
    }

    // After tiles were added in any order.
    void order() {
        for (int64_t i = 1; i < count; ++i)
            for (int64_t k = i; k > 0 && at[k].lo < at[k - 1].lo; --k) std::swap(at[k], at[k - 1]);
        const int64_t all = count;
        count = 0;
        for (int64_t i = 0; i < all; ++i) add(at[i].lo, at[i].hi);  // a run is read before its place is written
    }

    int64_t tiles() const {
        int64_t sum = 0;
        for (int64_t i = 0; i < count; ++i) sum += at[i].hi - at[i].lo + 1;
        return sum;
    }

    void swap(Runs& other) { std::swap(at, other.at), std::swap(count, other.count), std::swap(room, other.room); }

    // Calls f(lo, hi) for the runs of tiles that are here and not there.
    template <class F>
    void without(const Runs& there, F&& f) const {
        int64_t first = 0;
        for (int64_t i = 0; i < count; ++i) {
            int64_t lo = at[i].lo;
            while (first < there.count && there.at[first].hi < lo) ++first;
            for (int64_t k = first; k < there.count && there.at[k].lo <= at[i].hi; ++k) {
                if (lo < there.at[k].lo) f(lo, there.at[k].lo - 1);
                lo = there.at[k].hi + 1;
            }
            if (lo <= at[i].hi) f(lo, at[i].hi);
        }
    }
};

}  // namespace attnspec
