#include "api/overlap.h"

#include <algorithm>
#include <numeric>

namespace fa::api {

namespace {

/// Is there an integer solution of sum(coefficient[i] * z[i]) == target with 0 <= z[i] <= bound[i]? Depth-first over the coefficients in falling order, each
/// limited to the range that the rest can still reach. For nested strides that range holds one or two values, so the search is short. Nothing overflows:
/// validation keeps the extent of a box below 2^60 bytes.
class BoundedSum {
 public:
  void add(int64_t coefficient, int64_t bound) {
    if (coefficient == 0 || bound <= 0) {
      return;
    }
    for (int i = 0; i < count_; ++i) {
      if (terms_[i].coefficient == coefficient) {
        terms_[i].bound += bound;
        return;
      }
    }
    terms_[count_++] = {coefficient, bound};
  }

  /// Gives up, answering true, after kMaxSteps.
  bool reaches(int64_t target) {
    std::sort(terms_, terms_ + count_, [](const Term& a, const Term& b) { return a.coefficient > b.coefficient; });
    rest_max_[count_] = 0;
    rest_gcd_[count_] = 0;
    for (int i = count_ - 1; i >= 0; --i) {
      rest_max_[i] = rest_max_[i + 1] + terms_[i].coefficient * terms_[i].bound;
      rest_gcd_[i] = std::gcd(rest_gcd_[i + 1], terms_[i].coefficient);
    }
    steps_ = 0;
    return search(0, target);
  }

 private:
  struct Term {
    int64_t coefficient;
    int64_t bound;
  };
  static constexpr int kMaxTerms = 12;
  static constexpr int kMaxSteps = 100000;

  bool search(int i, int64_t target) {
    if (target == 0) {
      return true;
    }
    if (i == count_ || target < 0 || target > rest_max_[i] || target % rest_gcd_[i] != 0) {
      return false;
    }
    if (++steps_ > kMaxSteps) {
      return true;
    }
    const Term term = terms_[i];
    const int64_t highest = std::min(term.bound, target / term.coefficient);
    const int64_t missing = target - rest_max_[i + 1];
    const int64_t lowest = missing <= 0 ? 0 : (missing + term.coefficient - 1) / term.coefficient;
    for (int64_t z = highest; z >= lowest; --z) {
      if (search(i + 1, target - z * term.coefficient)) {
        return true;
      }
    }
    return false;
  }

  Term terms_[kMaxTerms] = {};
  int64_t rest_max_[kMaxTerms + 1] = {};
  int64_t rest_gcd_[kMaxTerms + 1] = {};
  int count_ = 0;
  int steps_ = 0;
};

}  // namespace

bool Box::empty() const {
  return std::any_of(sizes, sizes + kRank, [](int64_t size) { return size <= 0; }) || element_bytes <= 0;
}

uintptr_t Box::end() const {
  uintptr_t last = base + static_cast<uintptr_t>(element_bytes);
  for (int i = 0; i < kRank; ++i) {
    last += static_cast<uintptr_t>((sizes[i] - 1) * stride_bytes[i]);
  }
  return last;
}

Box byte_range(const void* pointer, uint64_t bytes) {
  Box box;
  box.base = reinterpret_cast<uintptr_t>(pointer);
  box.sizes[0] = box.sizes[1] = box.sizes[2] = bytes > 0 ? 1 : 0;
  box.sizes[3] = static_cast<int64_t>(bytes);
  box.stride_bytes[3] = 1;
  return box;
}

bool overlaps(const Box& a, const Box& b) {
  if (a.empty() || b.empty() || a.end() <= b.base || b.end() <= a.base) {
    return false;
  }
  // A shared byte: a.base + sum(sa * x) + e = b.base + sum(sb * y) + f. With y' = (n - 1) - y every coefficient is positive.
  BoundedSum sum;
  const int64_t distance = static_cast<int64_t>(b.base - a.base);  // wraps to the signed difference
  int64_t target = distance;
  for (int i = 0; i < Box::kRank; ++i) {
    sum.add(a.stride_bytes[i], a.sizes[i] - 1);
    sum.add(b.stride_bytes[i], b.sizes[i] - 1);
    target += (b.sizes[i] - 1) * b.stride_bytes[i];
  }
  sum.add(1, a.element_bytes - 1);
  sum.add(1, b.element_bytes - 1);
  target += b.element_bytes - 1;
  return sum.reaches(target);
}

bool overlaps_itself(const Box& box) {
  if (box.empty()) {
    return false;
  }
  int64_t sizes[Box::kRank], strides[Box::kRank];
  int rank = 0;
  for (int i = 0; i < Box::kRank; ++i) {
    if (box.sizes[i] > 1) {
      sizes[rank] = box.sizes[i];
      strides[rank++] = box.stride_bytes[i];
    }
  }
  // Two different indices differ by d != 0 with sum(stride * d) inside one element. Let dimension i be the first with d[i] != 0, and d[i] > 0.
  for (int i = 0; i < rank; ++i) {
    BoundedSum sum;
    int64_t target = -strides[i];  // the 1 of d[i] = 1 + z, z >= 0
    sum.add(strides[i], sizes[i] - 2);
    for (int j = i + 1; j < rank; ++j) {
      sum.add(strides[j], 2 * (sizes[j] - 1));
      target += strides[j] * (sizes[j] - 1);
    }
    sum.add(1, 2 * (box.element_bytes - 1));
    target += box.element_bytes - 1;
    if (sum.reaches(target)) {
      return true;
    }
  }
  return false;
}

}  // namespace fa::api
