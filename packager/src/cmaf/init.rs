//! The CMAF header of one track: `ftyp` and a `moov` without samples, with `mvex` to announce fragments.

use bytes::Bytes;
use mp4_atom::esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig};
use mp4_atom::{
    Audio, Avc1, Avcc, AvccExt, Codec, Dinf, Dref, DrefEntry, Encode, Esds, FourCC, Ftyp, Hdlr,
    Mdhd, Mdia, Minf, Moov, Mp4a, Mvex, Mvhd, Smhd, Stbl, Stco, Stsc, Stsd, Stsz, StszSamples,
    Stts, Tkhd, Trak, Trex, Url, Visual, Vmhd,
};

use super::{FLAGS_DEPENDENT, FLAGS_SYNC};
use crate::aac::AacConfig;
use crate::h264::AvcConfig;
use crate::{Error, fmp4};

/// `ftyp` and `moov` of a video track.
pub(crate) fn video(track_id: u32, timescale: u32, config: &AvcConfig) -> Result<Bytes, Error> {
    let (width, height) = (config.sps.width as u16, config.sps.height as u16);
    let plain = |units: &[Bytes]| units.iter().map(|unit| unit.to_vec()).collect();
    let entry = Codec::Avc1(Avc1 {
        visual: Visual {
            data_reference_index: 1,
            width,
            height,
            horizresolution: 0x48.into(),
            vertresolution: 0x48.into(),
            frame_count: 1,
            compressor: "".into(),
            depth: 24,
        },
        avcc: Avcc {
            configuration_version: 1,
            avc_profile_indication: config.profile,
            profile_compatibility: config.compatibility,
            avc_level_indication: config.level,
            length_size: config.length_size,
            sequence_parameter_sets: plain(&config.sps_units),
            picture_parameter_sets: plain(&config.pps_units),
            ext: config.extension.as_ref().map(|ext| AvccExt {
                chroma_format: ext.chroma_format,
                bit_depth_luma: ext.bit_depth_luma,
                bit_depth_chroma: ext.bit_depth_chroma,
                sequence_parameter_sets_ext: plain(&ext.sps_ext),
            }),
        },
        btrt: None,
        colr: None,
        pasp: None,
        taic: None,
        fiel: None,
        spatial: None,
    });
    let minf = Minf { vmhd: Some(Vmhd::default()), ..minf(entry) };
    let tkhd = Tkhd { width: width.into(), height: height.into(), ..tkhd(track_id) };
    write(tkhd, timescale, *b"vide", minf, FLAGS_DEPENDENT)
}

/// `ftyp` and `moov` of an audio track; its timescale is the sample rate.
pub(crate) fn audio(track_id: u32, config: &AacConfig, specific: &[u8]) -> Result<Bytes, Error> {
    let entry = Codec::Mp4a(Mp4a {
        audio: Audio {
            data_reference_index: 1,
            channel_count: config.channels,
            sample_size: 16,
            // 16 bits is all there is; above, players go by the timescale.
            sample_rate: u16::try_from(config.sample_rate).unwrap_or(0).into(),
        },
        esds: Esds {
            es_desc: EsDescriptor {
                dec_config: DecoderConfig {
                    object_type_indication: 0x40, // ISO/IEC 14496-3 audio
                    stream_type: 5,               // audio stream
                    dec_specific: Some(DecoderSpecific {
                        raw: specific.to_vec(),
                        ..DecoderSpecific::default()
                    }),
                    ..DecoderConfig::default()
                },
                sl_config: SLConfig::default(),
                ..EsDescriptor::default()
            },
        },
        btrt: None,
        taic: None,
    });
    let minf = Minf { smhd: Some(Smhd::default()), ..minf(entry) };
    let tkhd = Tkhd { volume: 1.into(), ..tkhd(track_id) };
    write(tkhd, config.sample_rate, *b"soun", minf, FLAGS_SYNC)
}

fn tkhd(track_id: u32) -> Tkhd {
    Tkhd { track_id, enabled: true, in_movie: true, ..Tkhd::default() }
}

fn minf(entry: Codec) -> Minf {
    Minf {
        dinf: Dinf { dref: Dref { entries: vec![DrefEntry::Url(Url::default())] } },
        stbl: Stbl {
            stsd: Stsd { codecs: vec![entry] },
            stts: Stts::default(),
            stsc: Stsc::default(),
            stsz: Stsz { samples: StszSamples::Different { sizes: Vec::new() } },
            stco: Some(Stco::default()),
            ..Stbl::default()
        },
        ..Minf::default()
    }
}

fn write(
    tkhd: Tkhd,
    timescale: u32,
    handler: [u8; 4],
    minf: Minf,
    flags: u32,
) -> Result<Bytes, Error> {
    let track_id = tkhd.track_id;
    let ftyp = Ftyp {
        major_brand: FourCC::new(b"iso6"),
        minor_version: 0,
        compatible_brands: [b"iso6", b"cmfc", b"mp41"].map(FourCC::new).to_vec(),
    };
    let moov = Moov {
        mvhd: Mvhd {
            timescale: 1000,
            rate: 1.into(),
            volume: 1.into(),
            next_track_id: track_id + 1,
            ..Mvhd::default()
        },
        mvex: Some(Mvex {
            mehd: None,
            trex: vec![Trex {
                track_id,
                default_sample_description_index: 1,
                default_sample_flags: flags,
                ..Trex::default()
            }],
        }),
        trak: vec![Trak {
            tkhd,
            mdia: Mdia {
                mdhd: Mdhd { timescale, language: "und".into(), ..Mdhd::default() },
                hdlr: Hdlr { handler: FourCC::new(&handler), name: "weir".into() },
                minf,
            },
            ..Trak::default()
        }],
        ..Moov::default()
    };
    let refuse = |_| Error::Config { codec: "CMAF", reason: "does not fit into an init segment" };
    let mut bytes = Vec::with_capacity(1024);
    ftyp.encode(&mut bytes).map_err(refuse)?;
    moov.encode(&mut bytes).map_err(refuse)?;
    debug_assert!(fmp4::tracks_of(&bytes).is_ok_and(|tracks| tracks.len() == 1));
    Ok(bytes.into())
}
