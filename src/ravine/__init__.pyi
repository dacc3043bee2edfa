"""The public names of ravine, and where each lives; `__init__.py` reads this list too."""

__version__: str

from ravine import models as models, problems as problems, weights as weights
from ravine._results import (
    Stop as Stop,
    Work as Work,
)
from ravine.calculus import (
    directional as directional,
    divergence as divergence,
    gradient as gradient,
    gradient_and_laplacian as gradient_and_laplacian,
    hessian_diagonal as hessian_diagonal,
    laplacian as laplacian,
    partials as partials,
    taylor as taylor,
    value_and_gradient as value_and_gradient,
)
from ravine.callbacks import (
    Checkpoint as Checkpoint,
    Event as Event,
    TensorBoard as TensorBoard,
    WeightsAndBiases as WeightsAndBiases,
)
from ravine.checkpoint import load as load
from ravine.constraints import (
    bounded as bounded,
    frozen as frozen,
    positive as positive,
    random_features as random_features,
    scaled as scaled,
)
from ravine.diagnostics.advice import (
    Diagnosis as Diagnosis,
    diagnose as diagnose,
    diagnose_run as diagnose_run,
)
from ravine.diagnostics.conflict import (
    Conflict as Conflict,
    Noise as Noise,
    Separability as Separability,
    conflict as conflict,
    gradient_noise as gradient_noise,
    separability as separability,
)
from ravine.diagnostics.density import Density as Density, spectral_density as spectral_density
from ravine.diagnostics.dynamics import (
    Convergence as Convergence,
    Drift as Drift,
    convergence_rate as convergence_rate,
    forecast_steps as forecast_steps,
    kernel_drift as kernel_drift,
    mode_errors as mode_errors,
    predicted_decay as predicted_decay,
    time_to_target as time_to_target,
)
from ravine.diagnostics.errors import (
    Bands as Bands,
    Norms as Norms,
    ResidualMap as ResidualMap,
    Split as Split,
    error_bands as error_bands,
    error_norms as error_norms,
    error_split as error_split,
    residual_map as residual_map,
)
from ravine.diagnostics.finding import Finding as Finding
from ravine.diagnostics.landscape import (
    Slice as Slice,
    filter_normalised as filter_normalised,
    landscape as landscape,
    top_eigenvectors as top_eigenvectors,
    trajectory_plane as trajectory_plane,
)
from ravine.diagnostics.precision import Precision as Precision, precision as precision
from ravine.diagnostics.spectra import (
    Spectrum as Spectrum,
    curvature as curvature,
    kernel_blocks as kernel_blocks,
    mean_frequency as mean_frequency,
    tangent_kernel as tangent_kernel,
)
from ravine.domains import (
    Ball as Ball,
    Boundary as Boundary,
    Box as Box,
    Difference as Difference,
    Faced as Faced,
    InTime as InTime,
    Masked as Masked,
    Region as Region,
    Simplex as Simplex,
    Union as Union,
    interval as interval,
)
from ravine.easy import (
    least_squares as least_squares,
    minimise as minimise,
)
from ravine.focus import Focus as Focus
from ravine.formulations import (
    Sines as Sines,
    boundary as boundary,
    energy as energy,
    initial as initial,
    logistic as logistic,
    neumann as neumann,
    operator as operator,
    operator_residual as operator_residual,
    penalty as penalty,
    periodic as periodic,
    residual as residual,
    robin as robin,
    softmax as softmax,
    supervised as supervised,
    weak as weak,
)
from ravine.hardware import (
    keep_memory as keep_memory,
    use_cores as use_cores,
)
from ravine.hosts import join_hosts as join_hosts
from ravine.layout import Layout as Layout
from ravine.minibatches import Minibatches as Minibatches, Overlapping as Overlapping, WithData as WithData
from ravine.objective import (
    Linearisation as Linearisation,
    Objective as Objective,
)
from ravine.optim.anderson import Anderson as Anderson
from ravine.optim.auto import auto as auto
from ravine.optim.backtracking import (
    GridSearch as GridSearch,
    NonMonotone as NonMonotone,
)
from ravine.optim.barzilai_borwein import BarzilaiBorwein as BarzilaiBorwein
from ravine.optim.block_coordinate import BlockCoordinate as BlockCoordinate
from ravine.optim.conjugate import NonlinearCG as NonlinearCG
from ravine.optim.curvature import (
    SR1 as SR1,
    Curvature as Curvature,
    GaussNewtonMatrix as GaussNewtonMatrix,
    Hessian as Hessian,
    LimitedSR1 as LimitedSR1,
)
from ravine.optim.first_order import (
    Steepest as Steepest,
    Transform as Transform,
)
from ravine.optim.forecast import (
    Forecast as Forecast,
    forecast as forecast,
)
from ravine.optim.gauss_newton import GaussNewton as GaussNewton
from ravine.optim.grouped import Grouped as Grouped
from ravine.optim.interop import to_optax as to_optax
from ravine.optim.kron import Kronecker as Kronecker
from ravine.optim.ladder import Ladder as Ladder
from ravine.optim.learning_rate import (
    Majorisation as Majorisation,
    Polyak as Polyak,
    Sharpness as Sharpness,
)
from ravine.optim.matrix_free import MatrixFree as MatrixFree
from ravine.optim.momentum import (
    HeavyBall as HeavyBall,
    Nesterov as Nesterov,
)
from ravine.optim.newton import (
    HessianFree as HessianFree,
    Newton as Newton,
    NewtonCG as NewtonCG,
    NystromNewton as NystromNewton,
)
from ravine.optim.optimizer import (
    Direction as Direction,
    Info as Info,
    Optimizer as Optimizer,
    Search as Search,
    State as State,
)
from ravine.optim.path import (
    Along as Along,
    Found as Found,
    Line as Line,
    Path as Path,
    Previous as Previous,
)
from ravine.optim.phase import (
    Phase as Phase,
    Plan as Plan,
    Tolerance as Tolerance,
)
from ravine.optim.presets import (
    METHODS as METHODS,
    Method as Method,
    adabelief as adabelief,
    adagrad as adagrad,
    adagrad_norm as adagrad_norm,
    adahessian as adahessian,
    adam as adam,
    adamw as adamw,
    amsgrad as amsgrad,
    anagram as anagram,
    anderson as anderson,
    arc as arc,
    asgd as asgd,
    averaged as averaged,
    barzilai_borwein as barzilai_borwein,
    bfgs as bfgs,
    block_coordinate as block_coordinate,
    broyden_class as broyden_class,
    conflict_free as conflict_free,
    cubic_newton as cubic_newton,
    damped_lbfgs as damped_lbfgs,
    dfp as dfp,
    dogleg as dogleg,
    ekfac as ekfac,
    energy_natural_gradient as energy_natural_gradient,
    from_optax as from_optax,
    gauss_newton as gauss_newton,
    gradient_descent as gradient_descent,
    growing_batch as growing_batch,
    heavy_ball as heavy_ball,
    hessian_free as hessian_free,
    kfac as kfac,
    large_batch_lbfgs as large_batch_lbfgs,
    lbfgs as lbfgs,
    levenberg_marquardt as levenberg_marquardt,
    lion as lion,
    lsr1 as lsr1,
    matrix_free_gauss_newton as matrix_free_gauss_newton,
    multibatch_lbfgs as multibatch_lbfgs,
    muon as muon,
    nadam as nadam,
    natural_gradient as natural_gradient,
    nesterov as nesterov,
    newton as newton,
    newton_cg as newton_cg,
    nonlinear_cg as nonlinear_cg,
    nys_newton_cg as nys_newton_cg,
    pcgrad as pcgrad,
    polyak as polyak,
    rmsprop as rmsprop,
    saddle_free_newton as saddle_free_newton,
    saga as saga,
    sarah as sarah,
    schedule_free as schedule_free,
    sgd as sgd,
    shampoo as shampoo,
    sketched_gauss_newton as sketched_gauss_newton,
    soap as soap,
    sophia as sophia,
    spring as spring,
    sqn as sqn,
    sr1 as sr1,
    ssbfgs as ssbfgs,
    ssbroyden as ssbroyden,
    stochastic_gauss_newton as stochastic_gauss_newton,
    stochastic_levenberg_marquardt as stochastic_levenberg_marquardt,
    storm as storm,
    subsampled_newton_cg as subsampled_newton_cg,
    svrg as svrg,
    trust_region_cg as trust_region_cg,
    trust_region_gauss_newton as trust_region_gauss_newton,
    trust_region_newton as trust_region_newton,
)
from ravine.optim.projection import (
    Projecting as Projecting,
    variable_projection as variable_projection,
)
from ravine.optim.quasi_newton import (
    LBFGS as LBFGS,
    Broyden as Broyden,
)
from ravine.optim.search import (
    Armijo as Armijo,
    Damping as Damping,
    Fixed as Fixed,
    Wolfe as Wolfe,
)
from ravine.optim.shampoo import (
    SOAP as SOAP,
    Shampoo as Shampoo,
)
from ravine.optim.sketched import (
    Probe as Probe,
    Sketched as Sketched,
    Truncated as Truncated,
)
from ravine.optim.spring import (
    Capped as Capped,
    Spring as Spring,
)
from ravine.optim.stochastic import (
    AdagradNorm as AdagradNorm,
    Averaged as Averaged,
    Growing as Growing,
)
from ravine.optim.stochastic_curvature import (
    SQN as SQN,
    AdaHessian as AdaHessian,
    Fresh as Fresh,
    HeldOut as HeldOut,
    MultiBatch as MultiBatch,
    Sophia as Sophia,
)
from ravine.optim.surgery import (
    Surgery as Surgery,
    equal_angles as equal_angles,
    projected as projected,
)
from ravine.optim.switches import (
    below as below,
    noisy as noisy,
    slowing as slowing,
    stalled as stalled,
)
from ravine.optim.trust_region import (
    Cauchy as Cauchy,
    Cubic as Cubic,
    Dogleg as Dogleg,
    Exact as Exact,
    Lanczos as Lanczos,
    Radius as Radius,
    Steihaug as Steihaug,
    TrustRegion as TrustRegion,
)
from ravine.optim.variance_reduction import (
    SAGA as SAGA,
    SARAH as SARAH,
    STORM as STORM,
    SVRG as SVRG,
)
from ravine.posterior import (
    Confidence as Confidence,
    Posterior as Posterior,
    posterior as posterior,
)
from ravine.problems.problem import (
    ClassReference as ClassReference,
    CoefficientReference as CoefficientReference,
    GridReference as GridReference,
    OperatorReference as OperatorReference,
    ParameterReference as ParameterReference,
    PointReference as PointReference,
    Problem as Problem,
    relative_l2 as relative_l2,
)
from ravine.quadrature import (
    Chosen as Chosen,
    Gauss as Gauss,
    Sparse as Sparse,
)
from ravine.report.page import write_report as write_report
from ravine.run import (
    History as History,
    Run as Run,
)
from ravine.samplers import (
    R3 as R3,
    RAD as RAD,
    RAR as RAR,
    Constant as Constant,
    Grid as Grid,
    Halton as Halton,
    Hammersley as Hammersley,
    Importance as Importance,
    Joint as Joint,
    LatinHypercube as LatinHypercube,
    Marching as Marching,
    Redrawn as Redrawn,
    Sampler as Sampler,
    Sobol as Sobol,
    Uniform as Uniform,
)
from ravine.terms import (
    Minibatch as Minibatch,
    Term as Term,
    Weighted as Weighted,
    identity as identity,
    squared as squared,
)
from ravine.train import train as train
from ravine.trajectories import (
    Trajectory as Trajectory,
    continuity as continuity,
    segments as segments,
    trajectory as trajectory,
)
from ravine.weights import (
    Annealing as Annealing,
    AugmentedLagrangian as AugmentedLagrangian,
    Balance as Balance,
    Causal as Causal,
    Given as Given,
    GradNorm as GradNorm,
    NTKTrace as NTKTrace,
    ReLoBRaLo as ReLoBRaLo,
    ResidualAttention as ResidualAttention,
    SelfAdaptive as SelfAdaptive,
    Weighting as Weighting,
)
