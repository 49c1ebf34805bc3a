// What is to do for a level, cut into tasks that cores take one by one; found once, before any image is seen.
//
// A pool reads most entries of the convolution below once. So the tasks of the two are one: it computes the entries
// that some pooled ones read, and keeps them in a core's cache instead of a table.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "plan.hpp"

namespace glance {

// Some entries of a block, that are written one after the other from row `first` on.
struct Run {
    const Block* block;
    int first;
    std::vector<std::int32_t> entries;
};

// Entries of a convolution, or pooled ones `first` and the next, each the maximum of `sources` [count, taps]: rows of
// the table below, or from −1 downwards of those that the runs have written.
struct Task {
    std::vector<Run> runs;
    int first = 0, count = 0;
    std::vector<std::int32_t> sources;
};

// Entries that a task takes: a multiple of every tile's rows, few enough that cores end at the same time.
constexpr int PIECE = 96;
// Entries of a convolution that a pool may compute more often than once, as a share of them.
constexpr double AGAIN = 0.1;

// The tasks of a convolution's block.
inline void convolve(const Block& block, std::vector<Task>& tasks) {
    for (int first = 0; first < block.count; first += PIECE) {
        Run run{&block, block.first + first, {}};
        for (int i = first; i < std::min(first + PIECE, block.count); ++i) run.entries.push_back(i);
        tasks.push_back({{run}, 0, 0, {}});
    }
}

// The tasks of a pool's block.
inline void pool(const Block& block, std::vector<Task>& tasks) {
    const std::size_t taps = block.taps.size();
    for (int first = 0; first < block.count; first += PIECE) {
        const int count = std::min(PIECE, block.count - first);
        const auto from = block.sources.begin() + first * taps;
        tasks.push_back({{}, block.first + first, count, {from, from + count * taps}});
    }
}

// Makes tasks of a pool compute what they read of a convolution; false, and no task is changed, where entries would be
// computed too often for that.
inline bool join(const Step& conv, std::vector<Task>& tasks) {
    std::vector<const Block*> block_of;
    for (const Block& block : conv.blocks) block_of.insert(block_of.end(), block.count, &block);
    std::vector<Task> joined = tasks;
    std::size_t computed = 0;
    for (Task& task : joined) {
        std::map<std::int32_t, std::int32_t> place;  // of each entry that is read, in their order
        for (std::int32_t row : task.sources)
            if (row >= conv.cells() && row < conv.zero()) place[row] = 0;
        std::int32_t next = 0;
        for (auto& [row, where] : place) {
            const Block* block = block_of[row - conv.cells()];
            if (task.runs.empty() || task.runs.back().block != block) task.runs.push_back({block, next, {}});
            task.runs.back().entries.push_back(row - block->first);
            where = next++;
        }
        for (std::int32_t& row : task.sources)
            if (auto found = place.find(row); found != place.end()) row = -1 - found->second;
        computed += next;
    }
    if (computed > (1 + AGAIN) * conv.entries) return false;
    tasks = std::move(joined);
    return true;
}

}  // namespace glance
