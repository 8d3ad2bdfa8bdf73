//! The driver: opened once, kernels loaded.

use crate::persist::{Lamp, Pause, Persistent, Settings};
use crate::program::Run;
use crate::virtual_board::{MARK, has};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute as FunctionAttribute};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use pilotlight_device::{Device, LoadError, Program, RunError};
use pilotlight_kernels::abi;
use pilotlight_plan::Plan;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, OnceLock};

/// How a plan's launches reach the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One launch for each kernel.
    Launch,
    /// All launches of an inference as one CUDA graph.
    Graph,
    /// One resident kernel that takes inferences from a mailbox.
    Persistent,
}

/// Why the CUDA device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no driver library.
    #[error("no CUDA driver (libcuda.so) is installed; use the CPU device, or a virtual board")]
    NoDriver,
    /// The driver is older than what the kernels and this library need.
    #[error(
        "the CUDA driver is of CUDA {found}{}; CUDA 11.4 (JetPack 5) or newer is needed",
        missing.map(|m| format!(" and lacks {m}")).unwrap_or_default()
    )]
    OldDriver {
        /// The newest CUDA version that it knows.
        found: String,
        /// A function that it should have.
        missing: Option<&'static str>,
    },
    /// The process has opened another driver than the board that was asked for.
    #[error("this process has opened another CUDA driver before; a process has one")]
    AnotherDriver,
    /// The driver has no GPU.
    #[error("the CUDA driver finds no GPU; use the CPU device, or a virtual board")]
    NoGpu,
    /// The GPU is older than the kernels.
    #[error("the GPU has compute capability {0}.{1}; the kernels need 8.7 (Jetson Orin) or newer")]
    TooOld(i32, i32),
    /// There is no memory for the kernels.
    #[error("{call}: the GPU has no memory left; free some")]
    Memory {
        /// What was asked of the driver.
        call: &'static str,
    },
    /// The driver refused a call.
    #[error("{call}: {problem}; see the driver's log (dmesg) and `nvidia-smi`")]
    Driver {
        /// What was asked of it.
        call: &'static str,
        /// Its answer.
        problem: String,
    },
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Launch => "launch",
            Mode::Graph => "graph",
            Mode::Persistent => "persistent",
        }
    }
}

/// An answer of the driver, with what was asked.
pub(crate) fn answer(call: &'static str) -> impl Fn(DriverError) -> OpenError {
    move |e| match e.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => OpenError::Memory { call },
        sys::CUresult::CUDA_ERROR_NO_DEVICE => OpenError::NoGpu,
        _ => OpenError::Driver { call, problem: format!("{e:?}") },
    }
}

/// The oldest CUDA version whose drivers take the kernels' PTX (7.4), as the driver numbers it.
const OLDEST: i32 = 11_040;

/// The driver's functions that this crate calls. cudarc panics where one is missing, so all are looked up when a
/// device is opened.
pub const FUNCTIONS: &[&str] = &[
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncSetAttribute",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuInit",
    "cuLaunchCooperativeKernel",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemHostGetDevicePointer_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyHtoD_v2",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamQuery",
    "cuStreamSynchronize",
];

/// Checks the driver's library before it is used; whether it is the virtual Orin's.
fn look_at_driver() -> Result<bool, OpenError> {
    // cudarc panics on a missing library, so it is looked for first.
    // SAFETY: (1) opening the driver's library runs its initialisers, which every CUDA program does.
    if !unsafe { sys::is_culib_present() } {
        return Err(OpenError::NoDriver);
    }
    // SAFETY: (1) as above.
    let library = unsafe { sys::culib() };
    let lacks = |name: &&&str| !has(library, format!("{name}\0").as_bytes());
    let missing = FUNCTIONS.iter().find(lacks).copied();
    let mut version = 0;
    if !lacks(&&"cuDriverGetVersion") {
        // SAFETY: (1) `version` is a place for the answer; the driver need not be initialised.
        unsafe { sys::cuDriverGetVersion(&mut version) }
            .result()
            .map_err(answer("asking for its version"))?;
    }
    if missing.is_some() || version < OLDEST {
        let found = format!("{}.{}", version / 1000, version % 1000 / 10);
        return Err(OpenError::OldDriver { found, missing });
    }
    Ok(has(library, MARK))
}

/// The kernels on the GPU.
pub(crate) struct Kernels {
    pub(crate) context: Arc<CudaContext>,
    module: sys::CUmodule,
    functions: HashMap<&'static str, sys::CUfunction>,
    pub(crate) multiprocessors: u32,
}

// SAFETY: (1) module and function handles are names that the driver resolves; its API may be called from any
// thread that has the context current, which every use makes sure of.
unsafe impl Send for Kernels {}
// SAFETY: (1) as above; the map is not changed after it was made.
unsafe impl Sync for Kernels {}

impl Kernels {
    fn load(context: Arc<CudaContext>, ptx: &str) -> Result<Self, OpenError> {
        let image = CString::new(ptx)
            .map_err(|e| OpenError::Driver { call: "reading the kernels", problem: e.to_string() })?;
        let multiprocessors = context
            .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(answer("counting multiprocessors"))? as u32;
        // SAFETY: (1) the context is current (CudaContext::new made it so); (2) the image is terminated text.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map_err(answer("loading the kernels"))?;
        let mut kernels = Self { context, module, functions: HashMap::new(), multiprocessors };
        for figures in pilotlight_kernels::figures() {
            let name = CString::new(figures.name)
                .map_err(|e| OpenError::Driver { call: "naming a kernel", problem: e.to_string() })?;
            // SAFETY: (1) the module is loaded and the name terminated.
            let function = unsafe { result::module::get_function(kernels.module, name) }
                .map_err(answer("finding a kernel"))?;
            kernels.functions.insert(figures.name, function);
        }
        for tile in pilotlight_kernels::tiles() {
            kernels.allow_shared(&tile.kernel(true), tile.shared())?;
            kernels.allow_shared(&tile.kernel(false), tile.shared())?;
        }
        kernels.allow_shared(PERSISTENT, most_shared())?;
        Ok(kernels)
    }

    /// Allows a kernel so many bytes of dynamic shared memory.
    fn allow_shared(&self, kernel: &str, bytes: u32) -> Result<(), OpenError> {
        let Some(&function) = self.functions.get(kernel) else { return Ok(()) };
        let most = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: (1) the function belongs to the loaded module.
        unsafe { result::function::set_function_attribute(function, most, bytes as i32) }
            .map_err(answer("asking for shared memory"))
    }

    /// Launches the persistent kernel with so many blocks, all resident.
    pub(crate) fn launch_persistent(
        &self,
        stream: &CudaStream,
        pilot: &abi::Pilot,
        blocks: u32,
    ) -> Result<(), DriverError> {
        let Some(&function) = self.functions.get(PERSISTENT) else {
            return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND));
        };
        let mut pilot = *pilot;
        let parameters = &mut [(&raw mut pilot).cast()];
        // SAFETY: (1) the function is of a loaded module; (2) its one parameter is this block, by the shared table;
        // (3) the lamp that launches keeps the memory that the block names until the kernel has left.
        unsafe {
            result::launch_cooperative_kernel(
                function,
                (blocks, 1, 1),
                (256, 1, 1),
                most_shared(),
                stream.cu_stream(),
                parameters,
            )
        }
    }

    /// Launches a kernel of the table into a stream.
    pub(crate) fn launch(&self, stream: &CudaStream, launch: &crate::Launch) -> Result<(), DriverError> {
        let Some(&function) = self.functions.get(launch.kernel.as_str()) else {
            return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND));
        };
        let mut block = launch.block.clone();
        let [x, y, z] = launch.grid;
        let parameters = &mut [block.as_mut_ptr().cast()];
        // SAFETY: (1) the function is of a loaded module; (2) its one parameter is a block of this type and
        // size, by the shared table; (3) the addresses in it were made by lowering, which checked them against
        // the plan's buffers, and the buffers live as long as the program that owns this launch.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (256, 1, 1),
                launch.shared,
                stream.cu_stream(),
                parameters,
            )
        }
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: (1) loaded once, unloaded once; programs hold this alive while they have work.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

const PERSISTENT: &str = "persistent";

/// Bytes of dynamic shared memory of the largest tile.
fn most_shared() -> u32 {
    pilotlight_kernels::tiles().map(|t| t.shared()).max().unwrap_or(0)
}

/// A CUDA GPU, or what answers as one.
pub struct Cuda {
    kernels: Arc<Kernels>,
    mode: Mode,
    name: String,
    settings: Settings,
    /// The resident kernel, or why graph mode stands in for it.
    lamp: OnceLock<Result<Arc<Lamp>, String>>,
    is_virtual: bool,
}

impl Cuda {
    /// Opens the first GPU and loads the kernels.
    ///
    /// # Errors
    /// [`OpenError`]: no driver, too old a GPU, or the driver's refusal.
    pub fn open(mode: Mode) -> Result<Self, OpenError> {
        Self::open_with(mode, pilotlight_kernels::PTX)
    }

    /// As [`Cuda::open`], with this PTX instead of [`pilotlight_kernels::PTX`]: kernels of the same names and
    /// parameter blocks. The tests open faulty kernels with it, to see that each fault is found.
    ///
    /// # Errors
    /// [`OpenError`]: as [`Cuda::open`]; the driver refuses a text that it cannot compile or that lacks a kernel.
    pub fn open_with(mode: Mode, ptx: &str) -> Result<Self, OpenError> {
        let is_virtual = look_at_driver()?;
        let context = CudaContext::new(0).map_err(answer("opening the GPU"))?;
        let (major, minor) =
            context.compute_capability().map_err(answer("asking for the GPU's capability"))?;
        if (major, minor) < (8, 7) {
            return Err(OpenError::TooOld(major, minor));
        }
        // SAFETY: (1) each program uses one stream of its own and waits for it; nothing relies on the events.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(answer("asking for the GPU's name"))?;
        let kernels = Arc::new(Kernels::load(context, ptx)?);
        Ok(Self { kernels, mode, name, settings: Settings::default(), lamp: OnceLock::new(), is_virtual })
    }

    /// The same with other settings, most of them for [`Mode::Persistent`].
    pub fn with(self, settings: Settings) -> Self {
        Self { settings, lamp: OnceLock::new(), ..self }
    }

    /// Takes the resident kernel out until the guard is dropped, so that the application may call CUDA itself.
    /// Inferences of other threads wait meanwhile; this thread may run none. In other modes there is nothing to
    /// take out.
    ///
    /// # Errors
    /// [`RunError`] when the kernel does not leave, or this thread holds a pause already.
    pub fn pause_gpu(&self) -> Result<Option<Pause>, RunError> {
        match self.lamp.get() {
            Some(Ok(lamp)) => lamp.pause().map(Some),
            _ => Ok(None),
        }
    }

    /// The resident kernel, made at the first use; `None` where the driver refused it.
    pub(crate) fn lamp(&self) -> Result<Option<Arc<Lamp>>, LoadError> {
        if self.lamp.get().is_none() {
            let lamp = match Lamp::new(Arc::clone(&self.kernels), self.settings.clone()) {
                Ok(lamp) => Ok(Arc::new(lamp)),
                Err(LoadError::Device { call, problem }) => {
                    log::warn!(
                        "{call}: {problem}; the persistent kernel is not used, graph mode stands in for it"
                    );
                    Err(format!("{call}: {problem}"))
                }
                Err(other) => return Err(other),
            };
            // Another thread may have been first; its lamp is as good.
            let _ = self.lamp.set(lamp);
        }
        Ok(self.lamp.get().and_then(|l| l.as_ref().ok()).cloned())
    }

    /// Whether the driver is a virtual Orin's: times are modelled then, not measured.
    pub fn is_virtual(&self) -> bool {
        self.is_virtual
    }

    /// The GPU's streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.kernels.multiprocessors
    }
}

impl Device for Cuda {
    fn describe(&self) -> String {
        let mode = match self.lamp.get() {
            Some(Err(problem)) => format!("graph, as the persistent kernel was refused: {problem}"),
            _ => self.mode.name().to_owned(),
        };
        format!("cuda:{mode} ({}, {} multiprocessors)", self.name, self.kernels.multiprocessors)
    }

    fn load(&self, plan: &Plan) -> Result<Box<dyn Program>, LoadError> {
        let kernels = Arc::clone(&self.kernels);
        let multiprocessors = self.settings.multiprocessors_of(kernels.multiprocessors)?;
        if self.mode != Mode::Persistent {
            return Ok(Box::new(Run::new(kernels, self.mode, plan, multiprocessors)?));
        }
        match self.lamp()? {
            Some(lamp) => Ok(Box::new(Persistent::new(kernels, lamp, plan)?)),
            None => Ok(Box::new(Run::new(kernels, Mode::Graph, plan, multiprocessors)?)),
        }
    }

    fn is_virtual(&self) -> bool {
        self.is_virtual
    }

    fn lit(&self) -> bool {
        matches!(self.lamp.get(), Some(Ok(lamp)) if lamp.lit())
    }
}
