// The work of a level, cut into items that cores take one by one; computed once per plan.
//
// A pool reads most entries of the convolution below once. So the work items of the two are fused: an item computes the
// entries that some pooled ones read, and keeps them in a core's cache instead of a table.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "plan.hpp"

namespace glance {

// Entries of a block that are written one after the other from row `first` on.
struct Range {
    const MatmulBlock* block;
    int first;
    std::vector<std::int32_t> entries;
};

// Entries of a convolution, or pooled ones `first` and the next, each the maximum of `sources` [count, taps]: rows of
// the table below, or from −1 downwards of those that the ranges have written.
struct WorkItem {
    std::vector<Range> ranges;
    int first = 0, count = 0;
    std::vector<std::int32_t> sources;
};

// Entries per work item: a multiple of every tile's rows, few enough that cores end at the same time.
constexpr int ITEM_ENTRIES = 96;
// Entries of a convolution that a pool may compute more often than once, as a share of them.
constexpr double MAX_RECOMPUTED_SHARE = 0.1;

// The items of a convolution's block.
inline void convolve(const MatmulBlock& block, std::vector<WorkItem>& items) {
    for (int first = 0; first < block.count; first += ITEM_ENTRIES) {
        Range range{&block, block.first + first, {}};
        for (int i = first; i < std::min(first + ITEM_ENTRIES, block.count); ++i) range.entries.push_back(i);
        items.push_back({{range}, 0, 0, {}});
    }
}

// The items of a pool's block.
inline void pool(const MatmulBlock& block, std::vector<WorkItem>& items) {
    const std::size_t taps = block.taps.size();
    for (int first = 0; first < block.count; first += ITEM_ENTRIES) {
        const int count = std::min(ITEM_ENTRIES, block.count - first);
        const auto from = block.sources.begin() + first * taps;
        items.push_back({{}, block.first + first, count, {from, from + count * taps}});
    }
}

// Makes items of a pool compute what they read of a convolution; false, and no item is changed, where entries would be
// computed too often for that.
inline bool fuse(const Step& conv, std::vector<WorkItem>& items) {
    std::vector<const MatmulBlock*> block_of;
    for (const MatmulBlock& block : conv.blocks) block_of.insert(block_of.end(), block.count, &block);
    std::vector<WorkItem> fused = items;
    std::size_t computed = 0;
    for (WorkItem& item : fused) {
        std::map<std::int32_t, std::int32_t> position;  // of each entry that is read, in their order
        for (std::int32_t row : item.sources)
            if (row >= conv.cells() && row < conv.zero()) position[row] = 0;
        std::int32_t next = 0;
        for (auto& [row, index] : position) {
            const MatmulBlock* block = block_of[row - conv.cells()];
            if (item.ranges.empty() || item.ranges.back().block != block) item.ranges.push_back({block, next, {}});
            item.ranges.back().entries.push_back(row - block->first);
            index = next++;
        }
        for (std::int32_t& row : item.sources)
            if (auto read = position.find(row); read != position.end()) row = -1 - read->second;
        computed += next;
    }
    if (computed > (1 + MAX_RECOMPUTED_SHARE) * conv.entries) return false;
    items = std::move(fused);
    return true;
}

}  // namespace glance
