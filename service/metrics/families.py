"""Every metric family: name, help, labels, buckets; a stage's metric has the stage's name.

Stages are decode, queue, run and request.
"""

from prometheus_client import Counter, Gauge, Histogram

# 50 us (one row of a small network) to 30 s (the default deadline), in steps of about two.
SECONDS = (
    0.00005,
    0.0001,
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    30,
)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
MODEL = ("model", "version")
DRIFT = ("pixel_mean", "pixel_spread", "entropy")

REQUESTS = Counter(
    "foveal_requests", "Requests answered by the lane", (*MODEL, "protocol", "status")
)
REQUEST_SECONDS = Histogram(
    "foveal_request_seconds", "Request read to answer written", MODEL, buckets=SECONDS
)
DECODE_SECONDS = Histogram(
    "foveal_decode_seconds", "Encoded bytes to pixels, per image", MODEL, buckets=SECONDS
)
QUEUE_SECONDS = Histogram(
    "foveal_queue_seconds", "Accepted to taken into a batch, per request", MODEL, buckets=SECONDS
)
RUN_SECONDS = Histogram("foveal_run_seconds", "One onnxruntime call", MODEL, buckets=SECONDS)
BATCH_ROWS = Histogram("foveal_batch_rows", "Rows of one onnxruntime call", MODEL, buckets=_ROWS)
QUEUE_ROWS = Gauge("foveal_queue_rows", "Rows waiting now", MODEL, multiprocess_mode="livesum")
DROPPED_ROWS = Counter(
    "foveal_dropped_rows", "Rows not run: their client left or their deadline passed", MODEL
)
REFUSALS = Counter(
    "foveal_refusals",
    "Requests refused by a queue: their wait or deadline would be missed, or memory is used up",
    (*MODEL, "reason"),
)
BROWNOUT = Gauge(
    "foveal_brownout",
    "1 while rows run at the precision of FOVEAL_BROWNOUT; only of versions that have one",
    MODEL,
    multiprocess_mode="livemax",
)
BROWNOUT_ROWS = Counter(
    "foveal_brownout_rows", "Rows run at the precision of FOVEAL_BROWNOUT", MODEL
)
NOT_FINITE_ROWS = Counter(
    "foveal_not_finite_rows",
    "Rows answered with an error: not all probabilities are numbers",
    MODEL,
)
MODEL_INFO = Gauge(
    "foveal_model_info",
    "1 for each loaded version, with its plan",
    (*MODEL, "device", "precision", "threads", "runs_on"),
    multiprocess_mode="livemax",
)
PLAN_INFO = Gauge(
    "foveal_plan_info",
    "1 for each loaded version: device asked for and got, its index, number format, layout, how "
    "runs are bound, buckets, what resizes its images: compiled code (avx2, plain) or pillow",
    (*MODEL, "asked", "device", "index", "format", "layout", "binding", "buckets", "resampler"),
    multiprocess_mode="livemax",
)
DEVICE_FALLBACK = Gauge(
    "foveal_device_fallback",
    "1 if the CPU runs a model although a GPU is present; the log has the reason",
    MODEL,
    multiprocess_mode="livemax",
)
CPU_NODES = Gauge(
    "foveal_cpu_nodes",
    "Nodes of the graph that a plan for a GPU leaves on the CPU",
    MODEL,
    multiprocess_mode="livemax",
)
DEVICE_MEMORY_BYTES = Gauge(
    "foveal_device_memory_bytes",
    "GPU memory that a version took when it was loaded",
    MODEL,
    multiprocess_mode="livesum",
)
PADDED_ROWS = Counter(
    "foveal_padded_rows", "Rows of padding that fill a batch up to its bucket", MODEL
)
DECODED_IMAGES = Counter(
    "foveal_decoded_images",
    "Images decoded where a card decodes JPEGs: by card, or by cpu with the reason",
    (*MODEL, "by", "reason"),
)
CARD_INFO = Gauge(
    "foveal_card_info",
    "1 for each loaded version whose JPEGs a card decodes, with the kinds that it does",
    (*MODEL, "kinds"),
    multiprocess_mode="livemax",
)
MODEL_REFUSED = Gauge(
    "foveal_model_refused",
    "1 for each version that could not be loaded",
    MODEL,
    multiprocess_mode="livemax",
)
PROMOTION_SHARE = Gauge(
    "foveal_promotion_share",
    "Share of the requests that a promotion gives its candidate now, 0 to 1",
    MODEL,
    multiprocess_mode="livemostrecent",
)
PROMOTION_EVIDENCE = Gauge(
    "foveal_promotion_evidence",
    "Evidence about each limit of a promotion: at 1 it refuses the candidate, at -1 it passes",
    (*MODEL, "limit"),
    multiprocess_mode="livemostrecent",
)
PROMOTION_STEPS = Counter(
    "foveal_promotion_steps",
    "Steps of promotions that this service decided, by outcome: grown, promoted, fell_back",
    (*MODEL, "outcome"),
)

KEY_REQUESTS = Counter(
    "foveal_key_requests",
    "Requests by API key: admitted, or limited by its rate; refused: without a known key",
    ("key", "outcome"),
)

RECORD_ROWS = Counter(
    "foveal_record_rows",
    "Rows of the recording by outcome: written; dropped, as the queue was full; failed on the disk",
    (*MODEL, "outcome"),
)
RECORD_BYTES = Gauge(
    "foveal_record_bytes",
    "Bytes of the recording's shards when the last one was begun",
    ("keep",),
    multiprocess_mode="livemax",
)
RECORD_STOPPED = Gauge(
    "foveal_record_stopped",
    "1 while nothing is recorded as the disk is full or the folder cannot be written",
    ("keep",),
    multiprocess_mode="livemax",
)

# Histograms for drift: sums over sampled rows. Divide by the rows and compare with training's.
DRIFT_ROWS = Counter("foveal_drift_rows", "Rows sampled for drift", MODEL)
DRIFT_CLASS_ROWS = Counter(
    "foveal_drift_class_rows",
    "Sampled rows in which a label came first; of a multi-label model, those that got it",
    (*MODEL, "label"),
)
DRIFT_SUMS = Counter(
    "foveal_drift_sums",
    "Sums over sampled rows: pixel_mean, pixel_spread, entropy, abstained",
    (*MODEL, "quantity"),
)
TRAINING = Gauge(
    "foveal_training",
    "Mean over the rows of training: pixel_mean, pixel_spread, entropy",
    (*MODEL, "quantity"),
    multiprocess_mode="livemax",
)
TRAINING_CLASS_SHARE = Gauge(
    "foveal_training_class_share",
    "Share of a label in the training split",
    (*MODEL, "label"),
    multiprocess_mode="livemax",
)
TRAINING_ACCURACY = Gauge(
    "foveal_training_accuracy",
    "Share of right answers on images that training never saw",
    MODEL,
    multiprocess_mode="livemax",
)

# The truth about answers, as clients gave it; each row once.
FEEDBACK_ROWS = Counter(
    "foveal_feedback_rows",
    "Answered rows whose truth is known, by outcome: right, wrong, abstained",
    (*MODEL, "outcome"),
)
FEEDBACK_CLASS_ROWS = Counter(
    "foveal_feedback_class_rows",
    "Labels of such rows: right, missed (true, not answered), extra (answered, not true)",
    (*MODEL, "label", "outcome"),
)
FEEDBACK_BIN_ROWS = Counter(
    "foveal_feedback_bin_rows",
    "Such rows by the probability of their answer, in 15 equal bins, and outcome",
    (*MODEL, "bin", "outcome"),
)
FEEDBACK_BIN_CONFIDENCE = Counter(
    "foveal_feedback_bin_confidence",
    "Sum of the probabilities of the answers in each of these bins",
    (*MODEL, "bin"),
)
FEEDBACK_PAIRS = Counter(
    "foveal_feedback_pairs",
    "Such rows that a shadow answered as well: it was better, worse, or the same",
    (*MODEL, "outcome"),
)
FEEDBACK_REFUSED = Counter(
    "foveal_feedback_refused",
    "Truths that were not counted: wrong, unknown id, conflict with an earlier one, duplicate",
    ("model", "reason"),
)
