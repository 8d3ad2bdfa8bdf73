//! The one table of instructions. What has no row here does not load.
//!
//! A row gives the opcode with all its modifiers (`{a,b}` stands for either), the operands, the counter class
//! and the function. Operand letters: `r` 32-bit, `h` 16-bit, `l` 64-bit, `p` predicate, `x` any width; capitals
//! are destinations; a digit before a letter is a vector of that length; `m` an address, `i` a literal, `s` a
//! special register, `r?` an optional source, `P|` one predicate or two joined by a bar. Section numbers are those of PTX ISA 8.5.
//!
//! Absent on purpose: `mul.f32` and `add.f32` without a rounding (ptxas may fuse them), `.approx`, `.ftz`,
//! `ld.global.nc`, `.satfinite`, local memory, calls. The kernels may not use them.

use crate::code::Class::{self, *};
use crate::code::Exec::{self, Alu, Sys};
use crate::exec::{
    alu as a, async_copy as cp, atomic as at, convert as c, float as f, flow, load_store as ls, matrix as mx,
    predicate as p, shuffle as sh, sync as s,
};
use std::collections::HashMap;

/// A row.
#[derive(Clone, Copy)]
pub struct Form {
    /// Opcode pattern.
    pub pattern: &'static str,
    /// Operands.
    pub signature: &'static str,
    /// Counter class.
    pub class: Class,
    /// Function.
    pub exec: Exec,
}

const fn row(pattern: &'static str, signature: &'static str, class: Class, exec: Exec) -> Form {
    Form { pattern, signature, class, exec }
}

const ROWS: &[Form] = &[
    // 9.7.1 integer arithmetic, 9.7.7 logic and shift
    row("add.{s32,u32}", "R r r", Int, Alu(a::add)),
    row("sub.{s32,u32}", "R r r", Int, Alu(a::sub)),
    row("mul.lo.{s32,u32}", "R r r", Int, Alu(a::mul_lo)),
    row("mul.hi.s32", "R r r", Int, Alu(a::mul_hi_s)),
    row("mul.hi.u32", "R r r", Int, Alu(a::mul_hi_u)),
    row("mul.wide.s32", "L r r", Int, Alu(a::mul_wide_s)),
    row("mul.wide.u32", "L r r", Int, Alu(a::mul_wide_u)),
    row("mul.wide.s16", "R h h", Int, Alu(a::mul_wide_s16)),
    row("mul.wide.u16", "R h h", Int, Alu(a::mul_wide_u16)),
    row("mad.lo.{s32,u32}", "R r r r", Int, Alu(a::mad_lo)),
    row("mad.wide.s32", "L r r l", Int, Alu(a::mad_wide_s)),
    row("mad.wide.u32", "L r r l", Int, Alu(a::mad_wide_u)),
    row("mad.lo.{s64,u64}", "L l l l", Int, Alu(a::mad64)),
    row("min.s32", "R r r", Int, Alu(a::min_s)),
    row("max.s32", "R r r", Int, Alu(a::max_s)),
    row("min.u32", "R r r", Int, Alu(a::min_u)),
    row("max.u32", "R r r", Int, Alu(a::max_u)),
    row("neg.s32", "R r", Int, Alu(a::neg)),
    row("abs.s32", "R r", Int, Alu(a::abs_s)),
    row("div.s32", "R r r", Int, Alu(a::div_s)),
    row("div.u32", "R r r", Int, Alu(a::div_u)),
    row("rem.s32", "R r r", Int, Alu(a::rem_s)),
    row("rem.u32", "R r r", Int, Alu(a::rem_u)),
    row("and.b32", "R r r", Int, Alu(a::and)),
    row("or.b32", "R r r", Int, Alu(a::or)),
    row("xor.b32", "R r r", Int, Alu(a::xor)),
    row("not.b32", "R r", Int, Alu(a::not)),
    row("shl.b32", "R r r", Int, Alu(a::shl)),
    row("shr.{u32,b32}", "R r r", Int, Alu(a::shr_u)),
    row("shr.s32", "R r r", Int, Alu(a::shr_s)),
    row("lop3.b32", "R r r r i", Int, Alu(a::lop3)),
    row("prmt.b32", "R r r r", Int, Alu(a::prmt)),
    row("shf.l.wrap.b32", "R r r r", Int, Alu(a::shf_l_wrap)),
    row("shf.r.wrap.b32", "R r r r", Int, Alu(a::shf_r_wrap)),
    row("bfe.u32", "R r r r", Int, Alu(a::bfe_u)),
    row("bfe.s32", "R r r r", Int, Alu(a::bfe_s)),
    row("bfi.b32", "R r r r r", Int, Alu(a::bfi)),
    row("popc.b32", "R r", Int, Alu(a::popc)),
    row("clz.b32", "R r", Int, Alu(a::clz)),
    row("brev.b32", "R r", Int, Alu(a::brev)),
    row("dp4a.s32.s32", "R r r r", Dot, Alu(a::dp4a_ss)),
    row("dp4a.u32.s32", "R r r r", Dot, Alu(a::dp4a_us)),
    row("dp4a.s32.u32", "R r r r", Dot, Alu(a::dp4a_su)),
    row("dp4a.u32.u32", "R r r r", Dot, Alu(a::dp4a_uu)),
    row("add.{s16,u16}", "H h h", Int, Alu(a::add16)),
    row("sub.{s16,u16}", "H h h", Int, Alu(a::sub16)),
    row("mul.lo.{s16,u16}", "H h h", Int, Alu(a::mul16)),
    row("and.b16", "H h h", Int, Alu(a::and)),
    row("or.b16", "H h h", Int, Alu(a::or)),
    row("xor.b16", "H h h", Int, Alu(a::xor)),
    row("not.b16", "H h", Int, Alu(a::not)),
    row("shl.b16", "H h r", Int, Alu(a::shl16)),
    row("shr.u16", "H h r", Int, Alu(a::shr_u16)),
    row("shr.s16", "H h r", Int, Alu(a::shr_s16)),
    row("min.s16", "H h h", Int, Alu(a::min_s16)),
    row("max.s16", "H h h", Int, Alu(a::max_s16)),
    row("min.u16", "H h h", Int, Alu(a::min_u16)),
    row("max.u16", "H h h", Int, Alu(a::max_u16)),
    row("add.{s64,u64}", "L l l", Int, Alu(a::add64)),
    row("sub.{s64,u64}", "L l l", Int, Alu(a::sub64)),
    row("mul.lo.{s64,u64}", "L l l", Int, Alu(a::mul64)),
    row("and.b64", "L l l", Int, Alu(a::and64)),
    row("or.b64", "L l l", Int, Alu(a::or64)),
    row("xor.b64", "L l l", Int, Alu(a::xor64)),
    row("min.s64", "L l l", Int, Alu(a::min_s64)),
    row("max.s64", "L l l", Int, Alu(a::max_s64)),
    row("min.u64", "L l l", Int, Alu(a::min_u64)),
    row("max.u64", "L l l", Int, Alu(a::max_u64)),
    row("div.s64", "L l l", Int, Alu(a::div_s64)),
    row("div.u64", "L l l", Int, Alu(a::div_u64)),
    row("rem.u64", "L l l", Int, Alu(a::rem_u64)),
    row("shl.b64", "L l r", Int, Alu(a::shl64)),
    row("shr.{u64,b64}", "L l r", Int, Alu(a::shr_u64)),
    row("shr.s64", "L l r", Int, Alu(a::shr_s64)),
    // 9.7.6 comparison and selection
    row("setp.eq.{s32,u32,b32}", "P| r r", Int, Alu(p::eq_32)),
    row("setp.ne.{s32,u32,b32}", "P| r r", Int, Alu(p::ne_32)),
    row("setp.lt.s32", "P| r r", Int, Alu(p::lt_s32)),
    row("setp.le.s32", "P| r r", Int, Alu(p::le_s32)),
    row("setp.gt.s32", "P| r r", Int, Alu(p::gt_s32)),
    row("setp.ge.s32", "P| r r", Int, Alu(p::ge_s32)),
    row("setp.lt.u32", "P| r r", Int, Alu(p::lt_u32)),
    row("setp.le.u32", "P| r r", Int, Alu(p::le_u32)),
    row("setp.gt.u32", "P| r r", Int, Alu(p::gt_u32)),
    row("setp.ge.u32", "P| r r", Int, Alu(p::ge_u32)),
    row("setp.eq.{s16,u16,b16}", "P| h h", Int, Alu(p::eq_16)),
    row("setp.ne.{s16,u16,b16}", "P| h h", Int, Alu(p::ne_16)),
    row("setp.lt.s16", "P| h h", Int, Alu(p::lt_s16)),
    row("setp.le.s16", "P| h h", Int, Alu(p::le_s16)),
    row("setp.gt.s16", "P| h h", Int, Alu(p::gt_s16)),
    row("setp.ge.s16", "P| h h", Int, Alu(p::ge_s16)),
    row("setp.lt.u16", "P| h h", Int, Alu(p::lt_u16)),
    row("setp.le.u16", "P| h h", Int, Alu(p::le_u16)),
    row("setp.gt.u16", "P| h h", Int, Alu(p::gt_u16)),
    row("setp.ge.u16", "P| h h", Int, Alu(p::ge_u16)),
    row("setp.eq.{s64,u64,b64}", "P| l l", Int, Alu(p::eq_64)),
    row("setp.ne.{s64,u64,b64}", "P| l l", Int, Alu(p::ne_64)),
    row("setp.lt.s64", "P| l l", Int, Alu(p::lt_s64)),
    row("setp.le.s64", "P| l l", Int, Alu(p::le_s64)),
    row("setp.gt.s64", "P| l l", Int, Alu(p::gt_s64)),
    row("setp.ge.s64", "P| l l", Int, Alu(p::ge_s64)),
    row("setp.lt.u64", "P| l l", Int, Alu(p::lt_u64)),
    row("setp.le.u64", "P| l l", Int, Alu(p::le_u64)),
    row("setp.gt.u64", "P| l l", Int, Alu(p::gt_u64)),
    row("setp.ge.u64", "P| l l", Int, Alu(p::ge_u64)),
    row("setp.eq.f32", "P| r r", Float, Alu(p::eq_f32)),
    row("setp.ne.f32", "P| r r", Float, Alu(p::ne_f32)),
    row("setp.lt.f32", "P| r r", Float, Alu(p::lt_f32)),
    row("setp.le.f32", "P| r r", Float, Alu(p::le_f32)),
    row("setp.gt.f32", "P| r r", Float, Alu(p::gt_f32)),
    row("setp.ge.f32", "P| r r", Float, Alu(p::ge_f32)),
    row("setp.equ.f32", "P| r r", Float, Alu(p::equ_f32)),
    row("setp.neu.f32", "P| r r", Float, Alu(p::neu_f32)),
    row("setp.ltu.f32", "P| r r", Float, Alu(p::ltu_f32)),
    row("setp.leu.f32", "P| r r", Float, Alu(p::leu_f32)),
    row("setp.gtu.f32", "P| r r", Float, Alu(p::gtu_f32)),
    row("setp.geu.f32", "P| r r", Float, Alu(p::geu_f32)),
    row("setp.nan.f32", "P| r r", Float, Alu(p::nan_f32)),
    row("setp.num.f32", "P| r r", Float, Alu(p::num_f32)),
    row("and.pred", "P p p", Int, Alu(p::and)),
    row("or.pred", "P p p", Int, Alu(p::or)),
    row("xor.pred", "P p p", Int, Alu(p::xor)),
    row("not.pred", "P p", Int, Alu(p::not)),
    row("mov.pred", "P p", Move, Alu(p::mov)),
    row("selp.{b32,s32,u32,f32}", "R r r p", Int, Alu(a::selp)),
    row("selp.{b16,s16,u16}", "H h h p", Int, Alu(a::selp)),
    row("selp.{b64,s64,u64}", "L l l p", Int, Alu(a::selp64)),
    // 9.7.3 float: only with the rounding written, or where there is none
    row("add.rn.f32", "R r r", Float, Alu(f::add)),
    row("sub.rn.f32", "R r r", Float, Alu(f::sub)),
    row("mul.rn.f32", "R r r", Float, Alu(f::mul)),
    row("div.rn.f32", "R r r", Float, Alu(f::div)),
    row("fma.rn.f32", "R r r r", Float, Alu(f::fma)),
    row("sqrt.rn.f32", "R r", Float, Alu(f::sqrt)),
    row("rcp.rn.f32", "R r", Float, Alu(f::rcp)),
    row("min.f32", "R r r", Float, Alu(f::min)),
    row("max.f32", "R r r", Float, Alu(f::max)),
    row("neg.f32", "R r", Float, Alu(f::neg)),
    row("abs.f32", "R r", Float, Alu(f::abs)),
    // 9.7.9 moves and conversions
    row("mov.{b32,u32,s32,f32}", "R r", Move, Alu(a::mov)),
    row("mov.{b16,u16,s16}", "H h", Move, Alu(a::mov)),
    row("mov.{b64,u64,s64}", "L l", Move, Alu(a::mov64)),
    row("mov.b64 pack", "L 2r", Move, Alu(a::pack64)),
    row("mov.b64 unpack", "2R l", Move, Alu(a::unpack64)),
    row("mov.b32 pack", "R 2h", Move, Alu(a::pack32)),
    row("mov.b32 unpack", "2H r", Move, Alu(a::unpack32)),
    row("mov.u32 %tid.x", "R s", Move, Sys(s::tid_x)),
    row("mov.u32 %tid.y", "R s", Move, Sys(s::tid_y)),
    row("mov.u32 %tid.z", "R s", Move, Sys(s::tid_z)),
    row("mov.u32 %ntid.x", "R s", Move, Sys(s::ntid_x)),
    row("mov.u32 %ntid.y", "R s", Move, Sys(s::ntid_y)),
    row("mov.u32 %ntid.z", "R s", Move, Sys(s::ntid_z)),
    row("mov.u32 %ctaid.x", "R s", Move, Sys(s::ctaid_x)),
    row("mov.u32 %ctaid.y", "R s", Move, Sys(s::ctaid_y)),
    row("mov.u32 %ctaid.z", "R s", Move, Sys(s::ctaid_z)),
    row("mov.u32 %nctaid.x", "R s", Move, Sys(s::nctaid_x)),
    row("mov.u32 %nctaid.y", "R s", Move, Sys(s::nctaid_y)),
    row("mov.u32 %nctaid.z", "R s", Move, Sys(s::nctaid_z)),
    row("mov.u32 %laneid", "R s", Move, Sys(s::laneid)),
    row("mov.u32 %smid", "R s", Move, Sys(s::smid)),
    row("mov.u32 %nsmid", "R s", Move, Sys(s::nsmid)),
    row("mov.u64 %globaltimer", "L s", Move, Sys(s::globaltimer)),
    row("mov.u64 %clock64", "L s", Move, Sys(s::clock64)),
    row("cvta.{to.global,global}.u64", "L l", Move, Alu(a::mov64)),
    row("cvta.shared.u64", "L l", Move, Alu(c::shared_to_generic)),
    row("cvta.to.shared.u64", "L l", Move, Alu(c::generic_to_shared)),
    row("cvt.{u32,s32}.{u64,s64}", "R l", Int, Alu(c::low)),
    row("cvt.{u16,s16}.{u64,s64}", "H l", Int, Alu(c::low)),
    row("cvt.{u64,s64}.u32", "L r", Int, Alu(c::from_u32)),
    row("cvt.{u64,s64}.s32", "L r", Int, Alu(c::from_s32)),
    row("cvt.{u64,s64}.u16", "L x", Int, Alu(c::from_u16)),
    row("cvt.{u64,s64}.s16", "L x", Int, Alu(c::from_s16)),
    row("cvt.{u32,s32}.u16", "R x", Int, Alu(c::from_u16)),
    row("cvt.{u32,s32}.s16", "R x", Int, Alu(c::from_s16)),
    row("cvt.{u16,s16}.{u32,s32}", "H r", Int, Alu(c::from_u16)),
    row("cvt.{u16,s16}.u8", "H x", Int, Alu(c::from_u8)),
    row("cvt.{u16,s16}.s8", "H x", Int, Alu(c::from_s8)),
    row("cvt.{u32,s32}.u8", "R x", Int, Alu(c::from_u8)),
    row("cvt.{u32,s32}.s8", "R x", Int, Alu(c::from_s8)),
    row("cvt.u8.{u16,s16,u32,s32,u64,s64}", "X x", Int, Alu(c::to_u8)),
    row("cvt.s8.{u16,s16,u32,s32,u64,s64}", "X x", Int, Alu(c::to_s8)),
    row("cvt.sat.s8.s32", "X r", Int, Alu(c::sat_s8_s32)),
    row("cvt.sat.u8.s32", "X r", Int, Alu(c::sat_u8_s32)),
    row("cvt.rn.f32.s32", "R r", Convert, Alu(c::f32_s32)),
    row("cvt.rn.f32.u32", "R r", Convert, Alu(c::f32_u32)),
    row("cvt.rn.f32.s16", "R h", Convert, Alu(c::f32_s16)),
    row("cvt.rn.f32.u16", "R h", Convert, Alu(c::f32_u16)),
    row("cvt.rn.f32.s8", "R x", Convert, Alu(c::f32_s8)),
    row("cvt.rn.f32.u8", "R x", Convert, Alu(c::f32_u8)),
    row("cvt.rni.s32.f32", "R r", Convert, Alu(c::s32_f32_rni)),
    row("cvt.rni.u32.f32", "R r", Convert, Alu(c::u32_f32_rni)),
    row("cvt.rzi.s32.f32", "R r", Convert, Alu(c::s32_f32_rzi)),
    row("cvt.rzi.u32.f32", "R r", Convert, Alu(c::u32_f32_rzi)),
    row("cvt.rzi.s64.f32", "L r", Convert, Alu(c::s64_f32_rzi)),
    row("cvt.rn.f32.s64", "R l", Convert, Alu(c::f32_s64)),
    row("cvt.rmi.s32.f32", "R r", Convert, Alu(c::s32_f32_rmi)),
    row("cvt.rni.f32.f32", "R r", Convert, Alu(c::f32_rni)),
    row("cvt.rzi.f32.f32", "R r", Convert, Alu(c::f32_rzi)),
    // 9.7.9.8 loads and stores
    row("ld.param.{u8,s8,u16,s16,u32,s32,f32,b8,b16,b32}", "X m", Param, Sys(s::load_param)),
    row("ld.param.{u64,s64,b64}", "L m", Param, Sys(s::load_param)),
    row("ld.param.v2.{u32,s32,f32,b32}", "2R m", Param, Sys(s::load_param)),
    row("ld.param.v4.{u32,s32,f32,b32}", "4R m", Param, Sys(s::load_param)),
    row("ld.param.v2.{u64,s64,b64}", "2L m", Param, Sys(s::load_param)),
    row(
        "ld{,.global,.volatile,.volatile.global}.{u8,s8,b8,u16,s16,b16,u32,s32,b32,f32}",
        "X m",
        LoadGlobal,
        Sys(ls::load),
    ),
    row("ld{,.global,.volatile,.volatile.global}.{u64,s64,b64}", "L m", LoadGlobal, Sys(ls::load)),
    row("ld.{relaxed,acquire}.{cta,gpu,sys}{,.global}.{u32,s32,b32}", "R m", LoadGlobal, Sys(ls::load)),
    row("ld.{relaxed,acquire}.{cta,gpu,sys}{,.global}.{u64,b64}", "L m", LoadGlobal, Sys(ls::load)),
    row("ld{,.global}.v2.{u8,s8,u16,s16,u32,s32,b32,f32}", "2X m", LoadGlobal, Sys(ls::load)),
    row("ld{,.global}.v4.{u8,s8,u16,s16,u32,s32,b32,f32}", "4X m", LoadGlobal, Sys(ls::load)),
    row("ld{,.global}.v2.{u64,s64,b64}", "2L m", LoadGlobal, Sys(ls::load)),
    row("ld{,.volatile}.shared.{u8,s8,b8,u16,s16,b16,u32,s32,b32,f32}", "X m", LoadShared, Sys(ls::load)),
    row("ld.shared.{u64,s64,b64}", "L m", LoadShared, Sys(ls::load)),
    row("ld.shared.v2.{u8,s8,u16,s16,u32,s32,b32,f32}", "2X m", LoadShared, Sys(ls::load)),
    row("ld.shared.v4.{u8,s8,u16,s16,u32,s32,b32,f32}", "4X m", LoadShared, Sys(ls::load)),
    row("ld.shared.v2.{u64,b64}", "2L m", LoadShared, Sys(ls::load)),
    row(
        "st{,.global,.volatile,.volatile.global}.{u8,s8,b8,u16,s16,b16,u32,s32,b32,f32}",
        "m x",
        StoreGlobal,
        Sys(ls::store),
    ),
    row("st{,.global,.volatile,.volatile.global}.{u64,s64,b64}", "m l", StoreGlobal, Sys(ls::store)),
    row("st.{relaxed,release}.{cta,gpu,sys}{,.global}.{u32,s32,b32}", "m r", StoreGlobal, Sys(ls::store)),
    row("st.{relaxed,release}.{cta,gpu,sys}{,.global}.{u64,b64}", "m l", StoreGlobal, Sys(ls::store)),
    row("st{,.global}.v2.{u8,s8,u16,s16,u32,s32,b32,f32}", "m 2x", StoreGlobal, Sys(ls::store)),
    row("st{,.global}.v4.{u8,s8,u16,s16,u32,s32,b32,f32}", "m 4x", StoreGlobal, Sys(ls::store)),
    row("st{,.global}.v2.{u64,b64}", "m 2l", StoreGlobal, Sys(ls::store)),
    row("st{,.volatile}.shared.{u8,s8,b8,u16,s16,b16,u32,s32,b32,f32}", "m x", StoreShared, Sys(ls::store)),
    row("st.shared.{u64,s64,b64}", "m l", StoreShared, Sys(ls::store)),
    row("st.shared.v2.{u8,s8,u16,s16,u32,s32,b32,f32}", "m 2x", StoreShared, Sys(ls::store)),
    row("st.shared.v4.{u8,s8,u16,s16,u32,s32,b32,f32}", "m 4x", StoreShared, Sys(ls::store)),
    row("prefetch{,.global}.{L1,L2}", "m", Fence, Sys(s::prefetch)),
    // 9.7.9.25 asynchronous copies
    row(
        "cp.async.{ca,cg}.shared.global{,.L2::64B,.L2::128B,.L2::256B}",
        "m m r r?",
        AsyncCopy,
        Sys(cp::copy),
    ),
    row("cp.async.commit_group", "", AsyncCopy, Sys(cp::commit)),
    row("cp.async.wait_group", "i", AsyncCopy, Sys(cp::wait_group)),
    row("cp.async.wait_all", "", AsyncCopy, Sys(cp::wait_all)),
    // 9.7.13 synchronisation
    row("bar.sync", "r r?", Barrier, Sys(s::barrier)),
    row("barrier.sync{,.aligned}", "r r?", Barrier, Sys(s::barrier)),
    row("bar.warp.sync", "r", Barrier, Sys(s::warp_barrier)),
    row("membar.{cta,gl,sys}", "", Fence, Sys(s::fence)),
    row("fence{,.acq_rel,.sc}.{cta,gpu,sys}", "", Fence, Sys(s::fence)),
    row("nanosleep.u32", "r", Sleep, Sys(s::nanosleep)),
    row(
        "atom{,.relaxed,.acquire,.release,.acq_rel}{,.cta,.gpu,.sys}{,.global,.shared}.add.{u32,s32}",
        "R m r",
        Atomic,
        Sys(at::atom_add),
    ),
    row(
        "atom.add{.relaxed,.acquire,.release,.acq_rel}{,.cta,.gpu,.sys}{,.global,.shared}.{u32,s32}",
        "R m r",
        Atomic,
        Sys(at::atom_add),
    ),
    row(
        "red{,.relaxed,.release}{,.cta,.gpu,.sys}{,.global,.shared}.add.{u32,s32}",
        "m r",
        Atomic,
        Sys(at::red_add),
    ),
    row(
        "red.add{.relaxed,.release}{,.cta,.gpu,.sys}{,.global,.shared}.{u32,s32}",
        "m r",
        Atomic,
        Sys(at::red_add),
    ),
    row("atom{,.global,.shared}.min.s32", "R m r", Atomic, Sys(at::atom_min_s)),
    row("atom{,.global,.shared}.max.s32", "R m r", Atomic, Sys(at::atom_max_s)),
    row("atom{,.global,.shared}.min.u32", "R m r", Atomic, Sys(at::atom_min_u)),
    row("atom{,.global,.shared}.max.u32", "R m r", Atomic, Sys(at::atom_max_u)),
    row("atom{,.global,.shared}.or.b32", "R m r", Atomic, Sys(at::atom_or)),
    row("atom{,.global,.shared}.and.b32", "R m r", Atomic, Sys(at::atom_and)),
    row("atom{,.global,.shared}.exch.b32", "R m r", Atomic, Sys(at::atom_exch)),
    row("red{,.global,.shared}.min.s32", "m r", Atomic, Sys(at::red_min_s)),
    row("red{,.global,.shared}.max.s32", "m r", Atomic, Sys(at::red_max_s)),
    row("red{,.global,.shared}.min.u32", "m r", Atomic, Sys(at::red_min_u)),
    row("red{,.global,.shared}.max.u32", "m r", Atomic, Sys(at::red_max_u)),
    row("red{,.global,.shared}.or.b32", "m r", Atomic, Sys(at::red_or)),
    row("red{,.global,.shared}.and.b32", "m r", Atomic, Sys(at::red_and)),
    row("atom{,.global,.shared}.add.u64", "L m l", Atomic, Sys(at::atom_add64)),
    row("atom{,.global,.shared}.cas.b32", "R m r r", Atomic, Sys(at::atom_cas)),
    // 9.7.9.6 shuffles, 9.7.13.8 votes
    row("shfl.sync.up.b32", "R|P r r r r", Shuffle, Sys(sh::up)),
    row("shfl.sync.down.b32", "R|P r r r r", Shuffle, Sys(sh::down)),
    row("shfl.sync.bfly.b32", "R|P r r r r", Shuffle, Sys(sh::bfly)),
    row("shfl.sync.idx.b32", "R|P r r r r", Shuffle, Sys(sh::idx)),
    row("vote.sync.any.pred", "P p r", Shuffle, Sys(sh::any)),
    row("vote.sync.all.pred", "P p r", Shuffle, Sys(sh::all)),
    row("vote.sync.ballot.b32", "R p r", Shuffle, Sys(sh::ballot)),
    // 9.7.14 matrices
    row("ldmatrix.sync.aligned.m8n8.x1.shared.b16", "1R m", LoadMatrix, Sys(mx::load1)),
    row("ldmatrix.sync.aligned.m8n8.x2.shared.b16", "2R m", LoadMatrix, Sys(mx::load2)),
    row("ldmatrix.sync.aligned.m8n8.x4.shared.b16", "4R m", LoadMatrix, Sys(mx::load4)),
    row("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", "4R m", LoadMatrix, Sys(mx::load4_transposed)),
    row("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", "4R 4r 2r 4r", Mma, Sys(mx::mma_k32_ss)),
    row("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32", "4R 4r 2r 4r", Mma, Sys(mx::mma_k32_su)),
    row("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32", "4R 4r 2r 4r", Mma, Sys(mx::mma_k32_us)),
    row("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32", "4R 4r 2r 4r", Mma, Sys(mx::mma_k32_uu)),
    row("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32", "4R 2r 1r 4r", Mma, Sys(mx::mma_k16_ss)),
    row("mma.sync.aligned.m16n8k16.row.col.s32.s8.u8.s32", "4R 2r 1r 4r", Mma, Sys(mx::mma_k16_su)),
    row("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32", "4R 2r 1r 4r", Mma, Sys(mx::mma_k16_us)),
    row("mma.sync.aligned.m16n8k16.row.col.s32.u8.u8.s32", "4R 2r 1r 4r", Mma, Sys(mx::mma_k16_uu)),
    // 9.7.12 control
    row("bra{,.uni}", "", Branch, Sys(flow::branch)),
    row("{ret,exit}", "", Branch, Sys(flow::exit)),
    row("trap", "", Branch, Sys(flow::trap)),
];

/// Forms that compilers of other projects write and that the project's kernels may not: saturating sums, and
/// other orders of the modifiers.
const FOREIGN: &[Form] = &[
    row("ldmatrix.sync.aligned.x1.m8n8.shared.b16", "1R m", LoadMatrix, Sys(mx::load1)),
    row("ldmatrix.sync.aligned.x2.m8n8.shared.b16", "2R m", LoadMatrix, Sys(mx::load2)),
    row("ldmatrix.sync.aligned.x4.m8n8.shared.b16", "4R m", LoadMatrix, Sys(mx::load4)),
    row(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32.satfinite",
        "4R 4r 2r 4r",
        Mma,
        Sys(mx::saturating_ss),
    ),
    row(
        "mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32.satfinite",
        "4R 4r 2r 4r",
        Mma,
        Sys(mx::saturating_uu),
    ),
];

/// The rows by opcode.
pub struct Table(HashMap<String, &'static Form>);

impl Table {
    /// Builds the table; cheap enough to do at each module load.
    pub fn new() -> Self {
        Table(ROWS.iter().flat_map(all).collect())
    }

    /// The table with the forms that only other projects' kernels use.
    pub fn with_foreign() -> Self {
        Table(ROWS.iter().chain(FOREIGN).flat_map(all).collect())
    }

    /// The row of an opcode.
    pub fn get(&self, opcode: &str) -> Option<&'static Form> {
        self.0.get(opcode).copied()
    }

    /// Every opcode, sorted.
    pub fn opcodes(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.0.keys().map(String::as_str).collect();
        all.sort_unstable();
        all
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// A row under every opcode that its pattern stands for.
fn all(form: &'static Form) -> impl Iterator<Item = (String, &'static Form)> {
    expand(form.pattern).into_iter().map(move |opcode| (opcode, form))
}

/// All strings that a pattern with `{a,b}` stands for.
fn expand(pattern: &str) -> Vec<String> {
    let Some((head, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let Some((choices, tail)) = rest.split_once('}') else { return vec![pattern.to_owned()] };
    choices
        .split(',')
        .flat_map(|choice| expand(tail).into_iter().map(move |end| format!("{head}{choice}{end}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_opcode_has_two_rows_and_every_signature_is_known() {
        let all: usize = ROWS.iter().chain(FOREIGN).map(|form| expand(form.pattern).len()).sum();
        let table = Table::with_foreign();
        assert_eq!(table.opcodes().len(), all, "an opcode is listed twice");
        for form in ROWS.iter().chain(FOREIGN) {
            assert!(crate::lower::known_signature(form), "{}: {}", form.pattern, form.signature);
            assert!(!form.pattern.contains("  "));
        }
    }

    #[test]
    fn forms_that_the_kernels_may_not_use_are_absent() {
        let table = Table::new();
        for opcode in [
            "mul.f32",
            "add.f32",
            "ex2.approx.f32",
            "add.ftz.f32",
            "ld.global.nc.u32",
            "ld.local.u32",
            "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32",
        ] {
            assert!(table.get(opcode).is_none(), "{opcode}");
        }
        assert!(table.get("ld.acquire.sys.global.u32").is_some());
    }
}
