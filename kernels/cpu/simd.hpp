// Vectors as wide as the machine's, and the two types that tables are stored in: float and bfloat16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace glance {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef float UnalignedVector __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline Vector load(const float* from) { return *reinterpret_cast<const UnalignedVector*>(from); }
inline void store(float* to, Vector value) { *reinterpret_cast<UnalignedVector*>(to) = value; }
// A NaN among the first stays one.
inline Vector larger(Vector a, Vector b) { return b > a ? b : a; }

// A product takes a row of a table in units of 32 bits: one float, or two bfloat16 that one instruction multiplies.
template <class T>
constexpr int UNIT = 4 / sizeof(T);

inline Vector multiply_add(Vector sum, const float* row, int unit, const float* weights) {
    return sum + row[unit] * load(weights);
}

#ifdef __AVX512BF16__
struct BFloat16 {
    std::uint16_t bits;
};

inline Vector load(const BFloat16* from) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return reinterpret_cast<Vector>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline void store(BFloat16* to, Vector value) {
    const __m256bh rounded = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(value));
    std::memcpy(to, &rounded, sizeof rounded);
}

inline Vector multiply_add(Vector sum, const BFloat16* row, int unit, const BFloat16* weights) {
    std::int32_t pair;
    std::memcpy(&pair, row + 2 * unit, sizeof pair);
    const __m512i pairs = _mm512_loadu_si512(weights);
    return reinterpret_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                     reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)),
                                                     reinterpret_cast<__m512bh>(pairs)));
}
#endif

// One number, rounded as vectors are, and back.
inline void put(float* to, float value) { *to = value; }
inline float number(float value) { return value; }
#ifdef __AVX512BF16__
inline void put(BFloat16* to, float value) {
    BFloat16 rounded[LANES];
    store(rounded, Vector{} + value);
    *to = rounded[0];
}

inline float number(BFloat16 value) {
    const std::uint32_t bits = std::uint32_t(value.bits) << 16;
    float widened;
    std::memcpy(&widened, &bits, sizeof widened);
    return widened;
}
#endif

inline std::size_t rounded_up(std::size_t count, std::size_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

}  // namespace glance
