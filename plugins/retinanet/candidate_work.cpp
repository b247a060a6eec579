#include "retinanet/candidate_work.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "common/workspace.h"

namespace torch_trt_ext::plugins {
namespace {

/// Keys an image and level that are kept before refine_kernel has to read the scores again.
constexpr int64_t kManyKeys = 65536;
/// Bytes of keys of all images and levels past which fewer are kept: large batches seldom have large counts everywhere.
constexpr int64_t kKeyBytes = int64_t{128} << 20;

/// Room for the keys of one level: `per_image` for each image, `total` elements in all.
struct Capacity {
  int64_t per_image;
  int64_t total;
};

/// `total` grows with every extent, so that a workspace for the largest shape does for all.
Capacity level_capacity(const Heads& heads, const HeadLevel& level, int64_t topk) {
  // Enough for K, and for a bin's more.
  const int64_t least = topk + std::max<int64_t>(topk, 1024);
  // Beyond kSortCapacity keys are ranked by counting, which is quadratic in what is kept.
  const int64_t most = topk > kSortCapacity ? least : std::max(least, kManyKeys);
  const int64_t shared = kKeyBytes / static_cast<int64_t>(sizeof(CandidateKey)) / heads.num_levels;
  const int64_t kept = std::min(heads.batch * most, std::max(shared, heads.batch * least));
  const int64_t scores = level.scores_per_image();
  return {std::min(scores, kept / std::max<int64_t>(heads.batch, 1)), std::min(heads.batch * scores, kept)};
}

/// A number that every x with 1 / (1 + exp(-x)) > score_thresh is greater than, however the sigmoid rounds.
///
/// Its relative error is a few units in the last place, 4e-7, and its relative slope is 1 - s: the logit is off by at
/// most 4e-7 / (1 - s). The margin is over ten times that. Below 1e-30 exp overflows and the sigmoid is denormal.
float logit_below(float score_thresh) {
  const double thresh = score_thresh;
  if (thresh < 1e-30) {
    return -FLT_MAX;
  }
  // Nothing is greater than 1; any bound will do.
  if (thresh >= 1.0) {
    return 0.0F;
  }
  const double bound = std::log(thresh / (1.0 - thresh)) - 1e-4 - 1e-5 / (1.0 - thresh);
  return std::max(-FLT_MAX, std::nextafterf(static_cast<float>(bound), -INFINITY));
}

/// Lays the workspace out and fills in all but what depends on the element type. Null pointers for a null workspace.
size_t lay_out(const Heads& heads, int32_t topk_candidates, void* workspace, CandidateWork* work,
               size_t* cleared_bytes) {
  const int64_t pairs = heads.batch * heads.num_levels;
  WorkspaceParts parts(workspace);
  work->num_overflowed = parts.take<uint32_t>(1);
  work->num_unresolved = parts.take<uint32_t>(1);
  work->counts = parts.take<uint32_t>(pairs);
  *cleared_bytes = parts.size_bytes();
  work->overflowed = parts.take<uint32_t>(pairs);
  work->refine_states = parts.take<RefineState>(pairs);
  work->histograms = parts.take<uint32_t>(pairs * kKeyBins);
  for (int32_t index = 0; index < heads.num_levels; ++index) {
    const Capacity capacity = level_capacity(heads, heads.levels[index], topk_candidates);
    work->levels[index].keys = parts.take<CandidateKey>(capacity.total);
    work->levels[index].capacity = static_cast<uint32_t>(capacity.per_image);
  }
  return parts.size_bytes();
}

void describe_level(const HeadLevel& from, LevelWork* to) {
  to->scores = from.scores;
  to->deltas = from.deltas;
  to->anchors = from.anchors;
  to->num_anchors = static_cast<uint32_t>(from.num_anchors);
  to->num_classes = static_cast<uint32_t>(from.num_classes);
  to->height = static_cast<uint32_t>(from.height);
  to->width = static_cast<uint32_t>(from.width);
  to->scores_per_image = static_cast<uint32_t>(from.scores_per_image());
  to->stride = static_cast<float>(from.stride);
  to->image_height = from.image_height;
  to->image_width = from.image_width;
}

}  // namespace

size_t candidate_workspace_bytes(const Heads& heads, int32_t topk_candidates) {
  CandidateWork work{};
  size_t cleared_bytes = 0;
  return lay_out(heads, topk_candidates, nullptr, &work, &cleared_bytes);
}

cudaError_t launch_candidates(const Heads& heads, const CandidateOptions& options, const CandidateOutputs& outputs,
                              void* workspace, cudaStream_t stream) {
  if (heads.num_levels < 1 || heads.num_levels > kMaxLevels || options.topk_candidates < 1) {
    return cudaErrorInvalidValue;
  }
  CandidateWork work{};
  size_t cleared_bytes = 0;
  lay_out(heads, options.topk_candidates, workspace, &work, &cleared_bytes);
  const int64_t vector_length = heads.type == ElementType::kFloat16 ? 8 : 4;
  const int64_t tile_scores = int64_t{kScanThreads} * kScanLoads * vector_length;
  int64_t blocks = 0;
  bool may_overflow = false;
  for (int32_t index = 0; index < heads.num_levels; ++index) {
    LevelWork& level = work.levels[index];
    const int64_t scores = heads.levels[index].scores_per_image();
    if (scores > kMaxScoresPerImage) {
      return cudaErrorInvalidValue;
    }
    describe_level(heads.levels[index], &level);
    // The slice may start up to a vector's length past the boundary that tiles are counted from.
    const int64_t chunks = (scores + vector_length - 1 + tile_scores - 1) / tile_scores;
    level.chunks_per_image = static_cast<uint32_t>(chunks);
    level.first_block = static_cast<uint32_t>(blocks);
    blocks += heads.batch * chunks;
    if (blocks > INT32_MAX) {
      return cudaErrorInvalidConfiguration;
    }
    may_overflow = may_overflow || level.capacity < level.scores_per_image;
  }
  work.num_levels = static_cast<uint32_t>(heads.num_levels);
  work.num_pairs = static_cast<uint32_t>(heads.batch * heads.num_levels);
  work.num_scan_blocks = static_cast<uint32_t>(blocks);
  work.topk = static_cast<uint32_t>(options.topk_candidates);
  work.score_thresh = options.score_thresh;
  work.head_thresh =
      options.activation == ScoreActivation::kSigmoid ? logit_below(options.score_thresh) : options.score_thresh;
  work.convention = options.convention;
  work.image_sizes = heads.image_sizes;

  cudaError_t status = cudaMemsetAsync(workspace, 0, cleared_bytes, stream);
  if (status == cudaSuccess && blocks > 0) {
    status = launch_scan(work, heads.type, options.activation, stream);
  }
  if (status == cudaSuccess && may_overflow) {
    status = launch_refine(work, heads.type, options.activation, stream);
  }
  return status == cudaSuccess ? launch_select(work, heads.type, outputs, stream) : status;
}

}  // namespace torch_trt_ext::plugins
